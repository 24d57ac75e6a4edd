"""``vedette doctor [-c FILE]``"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "what this device can do, and what to mend"
DESCRIPTION = (
    "Looks at the board (power, heat, memory, storage, clock), its cameras, sensors and accelerators and who may open them, "
    "Python and its packages, the TFLite runtimes and whether XNNPACK takes int8 networks, the systemd unit, and with -c at "
    "the configuration and its broker. Needs no root, opens no camera, changes nothing."
)
EXAMPLES = """examples:
  vedette doctor
  sudo -u vedette vedette doctor -c /etc/vedette/vedette.toml
  vedette doctor --json | jq '.findings[] | select(.verdict != "ok")'

Exit codes: 0 nothing bad, 2 something is for you to mend, 1 a fault of ours. A warn is worth a look and does not count.
--json prints one object: verdict (the worst of all), findings (area, verdict, what, fix).
"""
STYLES = {"ok": "green", "warn": "yellow", "bad": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares this command's options."""
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="look at this configuration and its broker, too"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command. The exit code: 2 where something is bad."""
    import msgspec
    from rich.text import Text

    from vedette import clock
    from vedette.config import default_state_dir
    from vedette.doctor.board import look_at_board, look_at_storage
    from vedette.doctor.devices import look_at_devices
    from vedette.doctor.host import Finding, Host
    from vedette.doctor.software import look_at_config, look_at_runtimes, look_at_software, look_at_unit
    from vedette.monitor.lines import printable
    from vedette.terminal import Console

    host = Host()
    found = look_at_board(host, clock.clock_state())
    state_dir: str | None = None
    about_config: list[Finding] = []
    if arguments.config is not None:
        about_config, state_dir = look_at_config(arguments.config)
    found += look_at_storage(host, str(Path(state_dir or default_state_dir()).absolute()))
    found += [*look_at_devices(host), *look_at_software(), *look_at_runtimes(), *look_at_unit(host), *about_config]
    worst = (
        "bad" if any(f.verdict == "bad" for f in found) else "warn" if any(f.verdict == "warn" for f in found) else "ok"
    )
    if arguments.json:
        print(msgspec.json.encode({"verdict": worst, "findings": found}).decode())
        return 2 if worst == "bad" else 0
    console = Console(highlight=False, soft_wrap=True)
    for finding in found:
        text = Text(f"{finding.verdict:<5} ", STYLES[finding.verdict])
        text.append(f"{finding.area}: {printable(finding.what, 1000)}", "default")
        if finding.fix:
            text.append(f"; {printable(finding.fix, 1000)}", "bold default")
        console.print(text)
    return 2 if worst == "bad" else 0
