"""Keys and signatures: the one file that knows ed25519 (RFC 8032). Bytes in, bytes out; `vedette.trust.keyring` reads files.

A bundle's signature is 64 raw bytes over its manifest as it stands in the file, and the manifest names the digest of all
the rest. So OpenSSL 3 alone can check one::

    unzip -p person.tflite manifest.json > m; unzip -p person.tflite manifest.sig > s
    openssl pkeyutl -verify -rawin -pubin -inkey site.pub -in m -sigfile s

Keys are PEM files (RFC 7468) as ``openssl genpkey -algorithm ed25519`` and ``openssl pkey -pubout`` write them. Behind the
PEM stands a fixed number of bytes (RFC 8410), so that a key is told from anything else by its first ones.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

from nacl.exceptions import BadSignatureError, CryptoError
from nacl.signing import SigningKey, VerifyKey

from vedette.contract.errors import BundleError, KeyFileError

SIGNATURE_BYTES: Final = 64
MAX_PEM: Final = 4096  # bytes; a key has 120
_PUBLIC: Final = bytes.fromhex("302a300506032b6570032100")  # SubjectPublicKeyInfo, ed25519 (RFC 8410, section 4)
_PRIVATE: Final = bytes.fromhex("302e020100300506032b657004220420")  # PrivateKeyInfo, the same (section 7)
_PEM: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\r?\n([A-Za-z0-9+/=\s]{0,4096})-----END \1-----")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Verifies. ``name``: what people call it, its file's mostly."""

    raw: bytes
    name: str

    @property
    def fingerprint(self) -> str:
        """The first 16 hex digits of the key's SHA-256, to compare by eye."""
        return hashlib.sha256(self.raw).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """Signs. Made by `new_private_key` or read by `read_private_key`."""

    _seed: bytes = field(repr=False)

    def public(self, name: str = "") -> PublicKey:
        """The other half."""
        return PublicKey(bytes(SigningKey(self._seed).verify_key), name)

    def sign(self, message: bytes) -> bytes:
        """`SIGNATURE_BYTES` bytes, the same for the same message."""
        return bytes(SigningKey(self._seed).sign(message).signature)

    def pem(self) -> bytes:
        """PKCS #8, not encrypted, as OpenSSL writes it."""
        return _to_pem("PRIVATE KEY", _PRIVATE + self._seed)


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures count. ``require``: whether a bundle must have one; a wrong one is refused in any case."""

    keys: tuple[PublicKey, ...]
    require: bool = True

    def check(self, message: bytes, signature: bytes | None, where: str) -> PublicKey | None:
        """The key that signed; None where nobody did and nobody need. Raises `BundleError`."""
        known = ", ".join(f"{key.name} ({key.fingerprint})" for key in self.keys) or "none"
        if signature is None:
            if self.require:
                raise BundleError(
                    "not signed", where=where, expected=f"a signature by one of the trusted keys: {known}",
                    fix="sign it: vedette-convert sign BUNDLE --key FILE",
                )  # fmt: skip
            return None
        if len(signature) != SIGNATURE_BYTES:
            raise BundleError(
                "bad signature", where=where, expected=f"{SIGNATURE_BYTES} bytes", found=f"{len(signature)}"
            )
        for key in self.keys:
            if verifies(key, message, signature):
                return key
        raise BundleError(
            "signature does not match", where=where, expected=f"one by a trusted key: {known}",
            found="another key's, or a changed manifest",
        )  # fmt: skip


def verifies(key: PublicKey, message: bytes, signature: bytes) -> bool:
    """Whether this key signed this very message."""
    try:
        VerifyKey(key.raw).verify(message, signature)
    except BadSignatureError:
        return False
    except (CryptoError, ValueError, TypeError):
        return False  # of another length
    return True


def new_private_key() -> PrivateKey:
    """From the system's randomness."""
    return PrivateKey(bytes(SigningKey.generate()))


def public_pem(key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo, as OpenSSL writes it."""
    return _to_pem("PUBLIC KEY", _PUBLIC + key.raw)


def read_public_key(pem: bytes, where: str) -> PublicKey:
    """A PEM file's public key; ``where`` becomes its name. Raises `KeyFileError`."""
    label, der = _from_pem(pem, where)
    if label.endswith("PRIVATE KEY"):
        raise KeyFileError(
            "a private key", where=where, expected="a public key: a private one has no business on a device",
            fix="openssl pkey -in PRIVATE -pubout -out PUBLIC",
        )  # fmt: skip
    if label != "PUBLIC KEY" or not der.startswith(_PUBLIC) or len(der) != len(_PUBLIC) + 32:
        raise KeyFileError(
            "no ed25519 key",
            where=where,
            expected="a PUBLIC KEY of the algorithm ed25519",
            found=_described(label, der),
        )
    return PublicKey(der[len(_PUBLIC) :], where)


def read_private_key(pem: bytes, where: str) -> PrivateKey:
    """A PEM file's private key. Raises `KeyFileError`."""
    label, der = _from_pem(pem, where)
    if label == "ENCRYPTED PRIVATE KEY":
        raise KeyFileError(
            "encrypted", where=where, expected="a private key that is not",
            fix=f"openssl pkey -in {where} -out OTHER writes one; keep it where nobody else reads",
        )  # fmt: skip
    if label != "PRIVATE KEY" or not der.startswith(_PRIVATE) or len(der) != len(_PRIVATE) + 32:
        raise KeyFileError(
            "no ed25519 key", where=where, expected="a PRIVATE KEY of the algorithm ed25519",
            found=_described(label, der), fix="make one: vedette-convert keygen NAME",
        )  # fmt: skip
    return PrivateKey(der[len(_PRIVATE) :])


def _to_pem(label: str, der: bytes) -> bytes:
    return f"-----BEGIN {label}-----\n{base64.b64encode(der).decode()}\n-----END {label}-----\n".encode()


def _from_pem(pem: bytes, where: str) -> tuple[str, bytes]:
    if len(pem) > MAX_PEM:
        raise KeyFileError("no key", where=where, expected=f"a PEM file of at most {MAX_PEM} bytes")
    blocks = _PEM.findall(pem)
    if len(blocks) != 1 or pem.count(b"-----BEGIN ") != 1:
        raise KeyFileError("no key", where=where, expected="one PEM block", found=str(pem.count(b"-----BEGIN ")))
    label, text = blocks[0]
    try:
        return label.decode("ascii"), base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        raise KeyFileError("no key", where=where, expected="base64 between the lines", found=str(error)) from None


def _described(label: str, der: bytes) -> str:
    return f"a {label} of {len(der)} bytes"
