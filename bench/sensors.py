"""Sensors: is every reading there at 10,000 a second, what does it cost, and how well do their models do?

One section a module: each has ``measure(results)``, which adds its rows to ``bench/results/sensors.json``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from _results import Results

SECTIONS = ("sensor_windows", "sensor_transports")


def main() -> int:
    """Prints the table; 1 when a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SECTIONS, help="one section; the file then holds its rows alone")
    arguments = parser.parse_args()
    results = Results("sensors")
    for section in SECTIONS:
        if arguments.only in (None, section):
            importlib.import_module(section).measure(results)
    return 0 if results.write() else 1


if __name__ == "__main__":
    sys.exit(main())
