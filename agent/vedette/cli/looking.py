"""Options of the commands that look at agents through a broker."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vedette.monitor.address import Broker


def add_broker_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "url", nargs="?", metavar="URL",
        help="mqtt[s]://[USER[:PASSWORD]@]HOST[:PORT][/ROOT] (default mqtt://localhost/vedette)",
    )  # fmt: skip
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="broker and root topic of this configuration")
    parser.add_argument("--root", metavar="TOPIC", help="mqtt.root of the agents (default vedette)")
    parser.add_argument(
        "--protocol", choices=("auto", "5", "3.1.1"), default="auto", help="MQTT version (default auto)"
    )
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="the password, in a file of its own")
    parser.add_argument("--ca-file", default="", metavar="FILE", help="PEM file of the authority behind mqtts://")
    parser.add_argument("--cert-file", default="", metavar="FILE", help="own certificate, for brokers that ask for one")
    parser.add_argument("--key-file", default="", metavar="FILE", help="its private key")


def broker_of(arguments: argparse.Namespace) -> Broker:
    """What they say. Raises `ConfigError`."""
    from vedette.monitor.address import find_broker

    return find_broker(
        arguments.url, config=arguments.config, root=arguments.root, password_file=arguments.password_file,
        files={name: getattr(arguments, name) for name in ("ca_file", "cert_file", "key_file")},
    )  # fmt: skip


def end_as_ctrl_c() -> None:
    """SIGTERM and a closed terminal end the command as Ctrl-C does; what is ignored from the start (nohup) stays so."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, signal.default_int_handler)
