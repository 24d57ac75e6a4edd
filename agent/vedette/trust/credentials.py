"""What this agent proves itself to a broker with, and whom it believes: read anew for each connection.

So a password or a certificate that is replaced counts from the next connection on; one that is up stays up. What cannot be
read is a refusal: fatal before the first connection, tried again with back-off after it.

Time and TLS: a device without a battery behind its clock begins in the past, and then a good certificate is "not yet
valid". That never weakens the check, and never ends the agent: what is a matter of dates may pass by itself, when the clock
is set or the certificate renewed, and is tried again with back-off.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from vedette import clock
from vedette.contract.errors import BrokerRefusedError, BrokerUnreachableError, VedetteError

MAX_PASSWORD: Final = 1024  # characters, as of one in the configuration
MAX_CERTIFICATE: Final = 1024 * 1024  # bytes of a PEM file

# of OpenSSL's x509_vfy.h: what a right clock, or a renewed certificate, would mend
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_HOSTS: Final = {"mqtt": "mqtt.host", "source": "the host in source.url"}
# alerts of TLS (RFC 8446, section 6) by which a broker turns a certificate down; OpenSSL's names, without their prefixes
_TURNED_DOWN: Final = (
    "CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "UNSUPPORTED_CERTIFICATE", "CERTIFICATE_REVOKED", "CERTIFICATE_UNKNOWN",
    "UNKNOWN_CA", "ACCESS_DENIED", "DECRYPT_ERROR",
)  # fmt: skip


def option(table: str, key: str) -> str:
    """What an option is called where it is given: ``mqtt.ca_file``, or ``--ca-file`` for a ``table`` of ``--``."""
    return f"--{key.replace('_', '-')}" if table == "--" else f"{table}.{key}"


def read_password(path: str) -> str:
    """A password file's content without white space around it, or a byte order mark. Raises `BrokerRefusedError`."""
    try:
        with Path(path).open("rb") as file:
            password = file.read(4 * MAX_PASSWORD + 64).decode("utf-8-sig").strip()
    except OSError as error:
        raise BrokerRefusedError(
            "password file cannot be read", where=path, found=error.strerror or str(error)
        ) from None
    except UnicodeDecodeError:
        raise BrokerRefusedError("password file is no text", where=path, expected="UTF-8") from None
    if not 1 <= len(password) <= MAX_PASSWORD:
        raise BrokerRefusedError(
            "no password", where=path, expected=f"1 to {MAX_PASSWORD} characters",
            found="none" if not password else "more",
        )  # fmt: skip
    return password


class _TlsSocket(ssl.SSLSocket):
    """Notes why a connection breaks, for paho-mqtt passes on no more than that it did."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """See `socket.socket.recv`."""
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            if isinstance(self.context, TlsContext):
                self.context.failure = error
            raise

    def send(self, data: Any, flags: int = 0) -> int:
        """See `socket.socket.send`. A broker that has closed may have said why before."""
        try:
            return super().send(data, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError:
            with contextlib.suppress(OSError):  # which `recv` has noted
                self.recv(1)
            raise


class TlsContext(ssl.SSLContext):
    """Of one connection. ``failure``: how TLS broke it off, or None."""

    sslsocket_class = _TlsSocket
    failure: ssl.SSLError | None = None
    _socket: ssl.SSLSocket | None = None

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """See `ssl.SSLContext.wrap_socket`. Remembers it: paho-mqtt 2.1 leaves it open when the handshake fails."""
        self._socket = super().wrap_socket(*args, **kwargs)
        return self._socket

    def abandon(self) -> None:
        """Closes the socket, if there is one."""
        if self._socket is not None:
            self._socket.close()

    def broker_expires(self) -> float | None:
        """When the broker's certificate expires, seconds since 1970; None before the handshake."""
        certificate = self._socket.getpeercert() if self._socket is not None and self._socket.version() else None
        until = certificate.get("notAfter") if certificate else None
        return float(ssl.cert_time_to_seconds(until)) if isinstance(until, str) else None


def tls_context(
    ca_file: str = "", cert_file: str = "", key_file: str = "", alpn: tuple[str, ...] = (), *, table: str = "mqtt"
) -> TlsContext:
    """Verifies the broker's certificate and name, TLS 1.2 or newer; shows ``cert_file`` to a broker that asks for it.

    ``table``: where the files are named, for messages. Raises `BrokerRefusedError` for one that cannot be used.
    """
    context = TlsContext(ssl.PROTOCOL_TLS_CLIENT)  # which asks for a certificate, and checks its name
    context.load_default_certs()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise BrokerRefusedError(
                "CA file cannot be used", where=f"{option(table, 'ca_file')}: {ca_file}", expected="PEM certificates",
                found=getattr(error, "strerror", None) or str(error),
            ) from None  # fmt: skip
    if cert_file:
        _load_own(context, cert_file, key_file, table)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def _load_own(context: TlsContext, cert_file: str, key_file: str, table: str) -> None:
    key = f"{option(table, 'key_file')}: {key_file}" if key_file else f"{option(table, 'cert_file')}: {cert_file}"

    def encrypted() -> str:  # without it, OpenSSL would ask on the terminal, and wait
        raise BrokerRefusedError(
            "key is encrypted", where=key, expected="one that is not, for nobody is there to type a password",
            fix=f"openssl pkey -in {key_file or cert_file} -out OTHER, readable by the agent's user alone",
        )  # fmt: skip

    try:
        for name, file in (("cert_file", cert_file), ("key_file", key_file)):
            if file:
                _read_pem(option(table, name), file)
        context.load_cert_chain(cert_file, key_file or None, password=encrypted)
    except OSError as error:  # and ssl.SSLError, which is one
        reason = getattr(error, "reason", None)
        fix = "the key is another certificate's" if reason == "KEY_VALUES_MISMATCH" else ""
        raise BrokerRefusedError(
            "certificate and key cannot be used", where=f"{option(table, 'cert_file')}: {cert_file}, {key}",
            expected="a PEM certificate and its private key", found=reason or error.strerror or str(error), fix=fix,
        ) from None  # fmt: skip


def _read_pem(name: str, file: str) -> bytes:
    """Raises `BrokerRefusedError` for one that OpenSSL should not be given: missing, or without an end."""
    try:
        with Path(file).open("rb") as opened:
            raw = opened.read(MAX_CERTIFICATE + 1)
    except OSError as error:
        raise BrokerRefusedError(
            "cannot be read", where=f"{name}: {file}", found=error.strerror or str(error)
        ) from None
    if len(raw) > MAX_CERTIFICATE:
        raise BrokerRefusedError("too large", where=f"{name}: {file}", expected=f"at most {MAX_CERTIFICATE} bytes")
    return raw


def distrust(error: ssl.SSLCertVerificationError, where: str, table: str = "mqtt") -> VedetteError:
    """What it means that the broker's certificate is not accepted. ``table``: where files are named."""
    if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        unsynced = clock.clock_state() != "synced"
        today = datetime.now(UTC).date()
        return BrokerUnreachableError(
            "the broker's certificate is not valid now", where=where,
            found=f"{error.verify_message}, and by this device's clock it is {today}"
            + (", but that clock is not synchronised" if unsynced else ""),
            fix="it is tried again; set the clock, or renew the broker's certificate",
        )  # fmt: skip
    return BrokerRefusedError(
        "the broker's certificate is not trusted", where=where, found=error.verify_message,
        fix=f"set {option(table, 'ca_file')} to the authority that signed it, and {_HOSTS.get(table, 'the host')} to the "
        "name in it",
    )  # fmt: skip


def turned_down(error: ssl.SSLError | None, where: str, table: str = "mqtt") -> VedetteError | None:
    """What it means that the broker broke the handshake off, where it did so for our certificate's sake."""
    reason = (error.reason or "") if error is not None else ""
    if "CERTIFICATE_EXPIRED" in reason:
        return BrokerUnreachableError(
            "the broker says that this device's certificate has expired", where=where,
            fix=f"it is tried again; renew {option(table, 'cert_file')}, or set the broker's clock",
        )  # fmt: skip
    if any(reason.endswith(alert) for alert in _TURNED_DOWN):
        return BrokerRefusedError(
            "the broker does not accept this device's certificate", where=where, found=reason.lower().replace("_", " "),
            fix=f"set {option(table, 'cert_file')} and {option(table, 'key_file')} to a certificate that its authority "
            "signed",
        )  # fmt: skip
    return None


def certificate_expires(file: str) -> float | None:
    """When the first certificate of a PEM file expires, seconds since 1970; None where there is none to be read."""
    try:
        text = _read_pem("certificate", file).decode("ascii")
        start = text.index(ssl.PEM_HEADER)
        end = text.index(ssl.PEM_FOOTER, start) + len(ssl.PEM_FOOTER)
        return _not_after(ssl.PEM_cert_to_DER_cert(text[start:end]))
    except (BrokerRefusedError, ValueError):
        return None


def days_left(*expire: float | None) -> float | None:
    """Days from now to the first of these moments, less than 0 after it; None where there is none."""
    known = [moment for moment in expire if moment is not None]
    return round((min(known) - time.time()) / 86_400, 2) if known else None


def _not_after(der: bytes) -> float:
    """``notAfter`` of a certificate (RFC 5280, section 4.1). Raises `ValueError` where the bytes are no certificate."""
    _, certificate, _ = _element(der)
    _, rest, _ = _element(certificate)  # tbsCertificate
    if rest[:1] == b"\xa0":
        _, _, rest = _element(rest)  # the version, which may be left out
    for _ in range(3):
        _, _, rest = _element(rest)  # serial number, algorithm, issuer
    _, content, _ = _element(rest)  # validity
    _, _, after = _element(content)
    tag, moment, _ = _element(after)
    # UTCTime has two digits of the year: 50 to 99 are of the last century (section 4.1.2.5.1)
    text = moment.decode("ascii")
    if tag == 0x17:
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """One element of DER (X.690): its tag, its content, what follows it. Raises `ValueError`."""
    if len(der) < 2:
        raise ValueError("truncated")
    length, start = der[1], 2
    if length & 0x80:
        size = length & 0x7F
        start += size
        length = int.from_bytes(der[2:start], "big")
        if not 1 <= size <= 4 or len(der) < start:
            raise ValueError("bad length")
    if len(der) < start + length:
        raise ValueError("truncated")
    return der[0], der[start : start + length], der[start + length :]
