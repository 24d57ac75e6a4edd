"""Runs inside a guest, ``guest_checks.py MODULE...``: each module's ``check_`` functions; prints a verdict a check."""

from __future__ import annotations

import importlib
import sys
import threading
import time
import traceback


def main(modules: list[str]) -> int:
    """The exit code."""
    failed = 0
    for module in map(importlib.import_module, modules):
        getattr(module, "prepare", lambda: None)()
        for name, check in [(n, f) for n, f in vars(module).items() if n.startswith("check_")]:
            begun = time.monotonic()
            try:
                check()
                verdict = "passed"
            except Exception:  # noqa: BLE001 - a verdict a check, whatever it was
                traceback.print_exc(file=sys.stdout)
                failed += 1
                verdict = "failed"
            print(f"CHECK {name.removeprefix('check_')} {verdict} {time.monotonic() - begun:.1f} s", flush=True)
        getattr(module, "clear_up", lambda: None)()
    assert threading.active_count() == 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
