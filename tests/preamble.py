"""Says before the tests what this machine lets them prove, and what it does not."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

PATH = "/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", "")

FINDINGS = {
    "mosquitto": "the embedded broker stands in: access rules, TLS, broker restarts and packet limits stay untested",
    "ffmpeg": "streams made by FFmpeg stay untested",
    "openssl": "TLS stays untested",
    "systemd-nspawn": "the unit is not booted",
    "mmdebstrap": "the unit is not booted, arm64 stays untested",
    "qemu-aarch64-static": "arm64 stays untested",
    "qemu-system-x86_64": "cameras of Video4Linux stay untested",
}


def main() -> None:
    """Prints a line for each tool."""
    print(f"Python {sys.version.split()[0]}")
    for tool, consequence in FINDINGS.items():
        found = shutil.which(tool, path=PATH)
        print(f"  {tool:<19} {found or 'not found: ' + consequence}")
    data = Path(__file__).resolve().parents[2] / "shared" / "data"
    print(
        f"  measuring data      {'found' if data.is_dir() else 'not found: tests on COCO pictures and CIFAR-10 skip'}"
    )


if __name__ == "__main__":
    main()
