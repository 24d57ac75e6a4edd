"""``vedette command DEVICE NAME ...``"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vedette.monitor.address import Broker

HELP = "tell a running agent what to do, over MQTT, and print its reply"
DESCRIPTION = (
    "Sends one command to an agent, with an id of its own and an expiry, and prints the agent's reply. The agent may be "
    "anywhere; both must reach the broker. Its name stands in every topic: vedette/DEVICE/status."
)
EXAMPLES = """examples:
  vedette command front-door ping --broker 192.168.1.2
  vedette command front-door enable door off --broker 192.168.1.2
  vedette command front-door threshold door 0.6 --label person --broker 192.168.1.2
  vedette command front-door snapshot door -c /etc/vedette/vedette.toml
  vedette command front-door reload --broker mqtts://me@broker.example/plant-7 --password-file broker.password

Exit codes: 0 done, 2 refused by the agent or the broker, or no broker there (one line says why), 1 no reply.
--json prints the reply as it came: v, id, command, ok, error (code, message), result.
"""

WORDS: Final = {
    "ping": (),
    "reload": (),
    "enable": ("PIPELINE", "on|off"),
    "threshold": ("PIPELINE", "VALUE"),
    "snapshot": ("PIPELINE",),
}
"""What each command is followed by."""
REPLY_S: Final = 10.0
RELOAD_S: Final = 180.0  # a new model is proved first, for 120 s at most
_USAGES: Final = [f"{name} {' '.join(words)}" if words else "" for name, words in WORDS.items()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares this command's options."""
    parser.add_argument("device", metavar="DEVICE", help="the agent's name")
    parser.add_argument("name", choices=tuple(WORDS), metavar="NAME", help=", ".join(WORDS))
    parser.add_argument("words", nargs="*", metavar="WORD", help="what NAME needs: " + "; ".join(filter(None, _USAGES)))
    parser.add_argument("--label", metavar="LABEL", help="threshold: of this label alone")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--broker", metavar="HOST[:PORT]",
        help="default localhost:1883; [::1]:1883 for an IPv6 address; or the URL that `vedette watch` takes",
    )  # fmt: skip
    where.add_argument("-c", "--config", type=Path, metavar="FILE", help="broker and root topic of this configuration")
    parser.add_argument("--root", metavar="TOPIC", help="mqtt.root of the agent (default vedette)")
    parser.add_argument("--protocol", choices=("5", "3.1.1"), default="5", help="MQTT version (default 5)")
    parser.add_argument("--username", default="", metavar="NAME")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="the password, in a file of its own")
    parser.add_argument("--tls", action="store_true", help="encrypt, and verify the broker's certificate")
    parser.add_argument("--ca-file", default="", metavar="FILE", help="PEM file of the authority that signed it")
    parser.add_argument("--cert-file", default="", metavar="FILE", help="own certificate, for brokers that ask for one")
    parser.add_argument("--key-file", default="", metavar="FILE", help="its private key")
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="N",
        help=f"seconds to wait (default 10; reload: {RELOAD_S:g}, to prove models)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command. The exit code."""
    import re

    import msgspec

    from vedette.contract.errors import ConfigError
    from vedette.mqtt.send import send_command
    from vedette.mqtt.topics import Topics

    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", arguments.device):
        raise ConfigError("bad device", expected="1 to 64 letters, digits, - and _", found=repr(arguments.device))
    timeout_s = arguments.timeout
    if timeout_s is None:
        timeout_s = RELOAD_S if arguments.name == "reload" else REPLY_S
    if not 0 < timeout_s <= 3600:
        raise ConfigError("bad --timeout", expected="more than 0, at most 3600 s", found=timeout_s)
    fields = _fields(arguments)
    options, root = _broker(arguments)
    reply = send_command(options, Topics(root, arguments.device), arguments.name, fields, timeout_s=timeout_s)
    if arguments.json:
        print(msgspec.json.encode(reply).decode())
    elif reply.error is not None:
        print(f"{arguments.device}: {arguments.name} refused ({reply.error.code}): {reply.error.message}")
    else:
        result = f": {json.dumps(reply.result)}" if reply.result else ""
        print(f"{arguments.device}: {arguments.name} done{result}")
    return 0 if reply.ok else 2


def _broker(arguments: argparse.Namespace) -> tuple[Any, str]:
    """Link options, and the root topic."""
    from vedette.config import load_config
    from vedette.contract.errors import ConfigError
    from vedette.monitor.address import DEFAULT_ROOT, Broker, checked_root
    from vedette.mqtt.connection import LinkOptions, check_credentials
    from vedette.mqtt_text import MAX_BYTES, is_string

    if arguments.config is not None:
        from vedette.service.compose import link_options

        _check_together(arguments)
        config = load_config(arguments.config)
        return link_options(config, arguments.config), config.mqtt.root
    text = arguments.broker or "localhost"
    if "://" in text:
        named = _url(arguments, text)
    else:
        named = Broker(LinkOptions(*_address(text), ""), DEFAULT_ROOT)
    if not is_string(arguments.username):
        raise ConfigError(
            "bad --username", expected=f"at most {MAX_BYTES} bytes of UTF-8 without control characters and noncharacters",
            found=repr(arguments.username),
        )  # fmt: skip
    username, tls = arguments.username or named.options.username, arguments.tls or named.options.tls
    _check_together(arguments, username=username, tls=tls)
    options = LinkOptions(
        named.options.host,
        named.options.port,
        "vedette-command",
        arguments.protocol,
        username,
        "" if arguments.password_file else named.options.password,
        tls=tls,
        ca_file=arguments.ca_file,
        password_file=str(arguments.password_file or ""),
        cert_file=arguments.cert_file,
        key_file=arguments.key_file,
        table="--",
    )
    check_credentials(options)
    return options, checked_root(arguments.root) if arguments.root is not None else named.root


def _url(arguments: argparse.Namespace, text: str) -> Broker:
    """A broker as `vedette watch` takes it. Raises `ConfigError` where another option says otherwise."""
    from vedette.contract.errors import ConfigError
    from vedette.monitor.address import parse_url

    named = parse_url(text)
    if arguments.username and named.options.username:
        raise ConfigError("bad --username", expected="a user name in the URL or here", found="both")
    if arguments.tls and not named.options.tls:
        raise ConfigError("bad --tls", expected="mqtts:// in --broker", found="mqtt://")
    return named


def _check_together(arguments: argparse.Namespace, *, username: str = "", tls: bool = False) -> None:
    """Raises `ConfigError` for an option that would do nothing. ``username``, ``tls``: as --broker says, too."""
    from vedette.contract.errors import ConfigError

    names = ("--username", "--password-file", "--tls", "--ca-file", "--cert-file", "--key-file")
    given = {name: getattr(arguments, name[2:].replace("-", "_")) for name in names}
    if arguments.config is not None:
        for name in names:
            if given[name]:
                raise ConfigError(
                    f"bad {name}", expected="a configuration's broker or options of your own", found="both",
                    fix=f"leave out --config, or {name}",
                )  # fmt: skip
    for name, beside in (
        ("--password-file", "--username"), ("--ca-file", "--tls"), ("--cert-file", "--tls"), ("--key-file", "--cert-file"),
    ):  # fmt: skip
        said = {"--username": username, "--tls": tls}.get(beside) or given[beside]
        if given[name] and not said:
            raise ConfigError(f"bad {name}", expected=f"{beside} beside it", found="none", fix=f"add {beside}")


def _address(text: str) -> tuple[str, int]:
    """``host``, ``host:port``, ``[address]:port``."""
    import re

    from vedette.contract.errors import ConfigError
    from vedette.hosts import is_host

    match = re.fullmatch(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]]+))(?::(?P<port>\d{1,5}))?", text)
    port = int(match["port"] or 1883) if match else 0
    host = (match["v6"] or match["host"]) if match else ""
    if not is_host(host) or not 1 <= port <= 65535:
        raise ConfigError(
            "bad --broker", expected="HOST or HOST:PORT, with [] around an IPv6 address", found=repr(text)
        )
    return host, port


def _fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command needs beside id and expiry. Raises `ConfigError`."""
    from vedette.contract.errors import ConfigError

    wanted = WORDS[arguments.name]
    usage = f"vedette command DEVICE {' '.join((arguments.name, *wanted))}"
    words = arguments.words
    if len(words) != len(wanted) or (arguments.label is not None and arguments.name != "threshold"):
        raise ConfigError("bad command", expected=usage, found=f"{len(words)} words after {arguments.name}")
    fields: dict[str, Any] = {"pipeline": words[0]} if wanted else {}
    if arguments.name == "enable":
        if words[1] not in ("on", "off"):
            raise ConfigError("bad command", expected=usage, found=repr(words[1]))
        fields["on"] = words[1] == "on"
    if arguments.name == "threshold":
        try:
            fields["value"] = float(words[1])
        except ValueError:
            raise ConfigError("bad command", expected=usage, found=repr(words[1])) from None
        if arguments.label is not None:
            fields["label"] = arguments.label
    return fields
