"""What this computer takes, where it has a meter: watts and joules, for ``vedette bench`` and ``vedette doctor``.

Counters, which the hardware adds up itself, and gauges, which are read `SAMPLE_S` apart and added up here. A meter says what
all that is behind it takes, a processor's package or a whole board, and not what one process does.

Sources of the formats: Linux, Documentation/power/powercap/powercap.rst (``energy_uj`` wraps at ``max_energy_range_uj``),
Documentation/hwmon/sysfs-interface.rst (``powerN_input`` in microwatts, ``energyN_input`` in microjoules, ``inN_input`` in
millivolts, ``currN_input`` in milliamperes), Documentation/ABI/testing/sysfs-class-power (microvolts, microamperes,
microwatts); ``vcgencmd pmic_read_adc`` of the Raspberry Pi 5's firmware.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from . import clock
from .sysfs import matching, number, text

SAMPLE_S: Final = 0.25
_VCGENCMD_S: Final = 2.0
# "VDD_CORE_A current(7)=0.78450000A" and "VDD_CORE_V volt(15)=0.72031710V"
_RAIL: Final = re.compile(r"(\w+)_([AV]) (?:current|volt)\(\d+\)=([0-9.]+)[AV]\b")


@dataclass(frozen=True, slots=True)
class Meter:
    """One of them. ``name``: as the hardware calls it, with what it measures."""

    name: str
    read: Callable[[], float | None]
    """Joules of a counter, watts of a gauge; None where it does not answer now."""
    counts: bool
    wraps_at: float | None = None
    """After so many joules a counter begins anew."""

    def between(self, before: float, now: float, seconds: float) -> float | None:
        """Joules between two readings; None where a counter was set back. A gauge is taken to have changed evenly."""
        if not self.counts:
            return (before + now) / 2 * seconds
        if now >= before:
            return now - before
        return None if self.wraps_at is None else now - before + self.wraps_at


@dataclass(frozen=True, slots=True)
class Taken:
    """Over a stretch of time, by one meter."""

    meter: str
    joules: float
    seconds: float

    @property
    def watts(self) -> float:
        """On average."""
        return self.joules / self.seconds


class Stretch:
    """``with Stretch(meters) as stretch: ...``, and then `taken`."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = meters
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="power", daemon=True)
        self._joules: list[float | None] = [0.0] * len(meters)

    def __enter__(self) -> Stretch:
        self._since_ns = self._last_ns = clock.now_ns()
        self._last = [meter.read() for meter in self._meters]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def taken(self) -> list[Taken]:
        """From the beginning to the end, by each meter that answered all the time."""
        seconds = (self._last_ns - self._since_ns) / 1e9
        readings = zip(self._meters, self._joules, strict=True)
        return [Taken(meter.name, joules, seconds) for meter, joules in readings if joules is not None]

    def _run(self) -> None:
        while self._meters and not self._stop.wait(SAMPLE_S):
            self._look()

    def _look(self) -> None:
        now_ns, now = clock.now_ns(), [meter.read() for meter in self._meters]
        seconds = (now_ns - self._last_ns) / 1e9
        for index, (meter, value, before) in enumerate(zip(self._meters, now, self._last, strict=True)):
            whole = self._joules[index]
            part = None if value is None or before is None else meter.between(before, value, seconds)
            self._joules[index] = None if whole is None or part is None else whole + part
        self._last_ns, self._last = now_ns, now


def find_meters(root: Path = Path("/"), vcgencmd: str | None = None) -> tuple[list[Meter], list[str]]:
    """The meters that answer, and the names of those that only root may read. ``root``: where /sys is; ``vcgencmd``: the
    Raspberry Pi's program, where there is one."""
    meters: list[Meter] = []
    refused: list[str] = []
    files = (*_powercap(root / "sys/class/powercap"), *_hwmon(root / "sys/class/hwmon"),
             *_batteries(root / "sys/class/power_supply"))  # fmt: skip
    for file, meter in files:
        if _refuses(file):
            refused.append(meter.name)
        else:
            meters.append(meter)
    return _told_apart([meter for meter in (*meters, *_pmic(vcgencmd)) if meter.read() is not None]), refused


def _told_apart(meters: Sequence[Meter]) -> list[Meter]:
    """Two chips of a kind have one name: from the second on they are numbered."""
    times: Counter[str] = Counter()
    found = []
    for meter in meters:
        times[meter.name] += 1
        again = times[meter.name] > 1
        found.append(replace(meter, name=f"{meter.name} ({times[meter.name]})") if again else meter)
    return found


def _powercap(folder: Path) -> Iterator[tuple[Path, Meter]]:
    """Processors' packages, their memory, and the whole board where it is told; cores are parts of a package."""
    for zone in matching(folder, "*:*"):
        name, parent = text(zone / "name"), ""
        if zone.name.count(":") > 1:
            if name != "dram":
                continue
            parent = text(folder / zone.name.rpartition(":")[0] / "name")
        file = zone / "energy_uj"
        if file.exists():
            wraps_at = number(zone / "max_energy_range_uj")
            title = " ".join(filter(None, (zone.name.partition(":")[0], parent, name)))
            yield file, Meter(title, _scaled(file, 1e-6), True, wraps_at and wraps_at / 1e6)


def _hwmon(folder: Path) -> Iterator[tuple[Path, Meter]]:
    for chip in matching(folder, "hwmon*"):
        if "power_supply" in (chip / "device").resolve().parts:
            continue  # the kernel shows batteries here once more
        driver = text(chip / "name") or chip.name
        for file in matching(chip, "energy*_input"):
            yield file, Meter(_labelled(driver, file), _scaled(file, 1e-6), True)
        for file in matching(chip, "power*_input") or matching(chip, "power*_average"):
            yield file, Meter(_labelled(driver, file), _scaled(file, 1e-6), False)
        if driver == "ina3221":  # a Jetson's rails: volts and amperes by channel, and no product
            for file in matching(chip, "curr*_input"):
                volts = file.with_name(file.name.replace("curr", "in"))
                if volts.exists():
                    yield file, Meter(_labelled(driver, volts), _product(file, volts, 1e-6), False)


def _batteries(folder: Path) -> Iterator[tuple[Path, Meter]]:
    """Those that feed the computer now: one that is charged tells what it is given."""
    for supply in matching(folder, "*"):
        if (text(supply / "type"), text(supply / "status")) != ("Battery", "Discharging"):
            continue
        power, current = supply / "power_now", supply / "current_now"
        if power.exists():
            yield power, Meter(f"battery {supply.name}", _scaled(power, 1e-6), False)
        else:
            watts = _product(current, supply / "voltage_now", 1e-12)
            yield current, Meter(f"battery {supply.name}", watts, False)


def _pmic(program: str | None) -> Iterator[Meter]:
    """A Raspberry Pi 5's rails together: less than the board takes, by what its converters lose and USB devices have."""
    if program is not None:
        yield Meter("pmic (rails)", lambda: read_rails(program), False)


def read_rails(program: str) -> float | None:
    """Watts of all rails whose volts and amperes are told; None where there are none, as on a Pi before the 5."""
    try:
        done = subprocess.run(
            [program, "pmic_read_adc"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_VCGENCMD_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    rails: dict[str, dict[str, float]] = {}
    for name, unit, value in _RAIL.findall(done.stdout.decode("ascii", "replace")):
        rails.setdefault(name, {})[unit] = float(value)
    products = [rail["A"] * rail["V"] for rail in rails.values() if len(rail) == 2]
    return sum(products) if products else None


def _labelled(driver: str, file: Path) -> str:
    name = file.name.rpartition("_")[0]
    return f"{driver} {text(file.with_name(f'{name}_label')) or name}"


def _scaled(file: Path, scale: float) -> Callable[[], float | None]:
    def read() -> float | None:
        value = number(file)
        return None if value is None else abs(value) * scale

    return read


def _product(current: Path, volts: Path, scale: float) -> Callable[[], float | None]:
    def read() -> float | None:
        amperes, voltage = number(current), number(volts)
        # what flows out of a battery is below 0 for some drivers
        return None if amperes is None or voltage is None else abs(amperes * voltage) * scale

    return read


def _refuses(file: Path) -> bool:
    try:
        file.read_bytes()
    except PermissionError:
        return True
    except OSError:
        return False  # it is there, and does not answer
    return False
