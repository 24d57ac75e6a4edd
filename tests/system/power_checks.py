"""Checks for a guest whose kernel has chips to talk to: its i2c-stub keeps registers, and its own drivers read them.

A smart battery (driver sbs-battery, Smart Battery Data Specification 1.1) and a hot-swap controller that measures what goes
through it (ltc4215).
"""

from __future__ import annotations

import ctypes
import fcntl
import time
from pathlib import Path

from vedette.clock import clock_state
from vedette.doctor.board import look_at_board
from vedette.doctor.host import Host
from vedette.power import Stretch, find_meters

BATTERY, CONTROLLER = 0x0B, 0x44
MODULES = [f"i2c-stub chip_addr={BATTERY:#x},{CONTROLLER:#x}", "i2c-dev", "sbs-battery", "ltc4215"]
_I2C_SLAVE_FORCE, _I2C_SMBUS = 0x0706, 0x0720  # linux/i2c-dev.h
_BYTE_DATA, _WORD_DATA = 2, 3
_VOLTAGE, _CURRENT, _STATUS, _DISCHARGING = 0x09, 0x0A, 0x16, 0x40
_SENSE, _OUTPUT = 4, 6


class _Transfer(ctypes.Structure):
    _fields_ = (
        ("write", ctypes.c_uint8), ("command", ctypes.c_uint8), ("size", ctypes.c_uint32), ("data", ctypes.c_void_p),
    )  # fmt: skip


def set_register(chip: int, register: int, value: int, size: int = _WORD_DATA) -> None:
    """As the chip's own hardware would."""
    bus = next(Path("/sys/bus/i2c/devices").glob("i2c-*")).name
    content = ctypes.create_string_buffer(value.to_bytes(2, "little"), 34)
    with Path("/dev", bus).open("r+b", buffering=0) as device:
        fcntl.ioctl(device, _I2C_SLAVE_FORCE, chip)
        fcntl.ioctl(device, _I2C_SMBUS, _Transfer(0, register, size, ctypes.addressof(content)))


def prepare() -> None:
    """Tells the kernel which chips are there."""
    set_register(BATTERY, _VOLTAGE, 12_000)  # mV
    set_register(BATTERY, _CURRENT, 0x10000 - 1_500)  # mA, below 0: it flows out
    set_register(BATTERY, _STATUS, _DISCHARGING)
    set_register(CONTROLLER, _SENSE, 100, _BYTE_DATA)
    set_register(CONTROLLER, _OUTPUT, 200, _BYTE_DATA)
    bus = next(Path("/sys/bus/i2c/devices").glob("i2c-*"))
    (bus / "new_device").write_text(f"sbs-battery {BATTERY:#x}")
    (bus / "new_device").write_text(f"ltc4215 {CONTROLLER:#x}")


def _hwmon() -> Path:
    return next(file.parent for file in Path("/sys/class/hwmon").glob("*/name") if file.read_text() == "ltc4215\n")


def _watts() -> float:
    """The driver's own word."""
    return int((_hwmon() / "power1_input").read_text()) / 1e6


def check_a_battery_and_a_controller_are_found_once() -> None:
    meters, refused = find_meters()
    names = [meter.name for meter in meters]
    print("   ", names)
    assert refused == [] and len(names) == 2
    assert names[0] == "ltc4215 power1" and names[1].startswith("battery sbs-")
    assert _watts() > 0 and abs((meters[0].read() or 0) - _watts()) < 1e-9
    assert abs((meters[1].read() or 0) - 18) < 0.2, "12 V by 1.5 A"


def check_what_changes_is_added_up() -> None:
    before = _watts()
    with Stretch(find_meters()[0]) as stretch:
        time.sleep(2)
        set_register(CONTROLLER, _SENSE, 200, _BYTE_DATA)
        time.sleep(4)
    after = _watts()
    taken = {taken.meter: taken for taken in stretch.taken()}
    print("   ", before, after, taken)
    assert abs(after / before - 2) < 0.05
    assert before * 1.2 < taken["ltc4215 power1"].watts < after
    assert taken["ltc4215 power1"].seconds > 6
    battery = next(row for name, row in taken.items() if name.startswith("battery"))
    assert abs(battery.joules / battery.seconds - 18) < 0.2


def check_doctor_names_them() -> None:
    said = [finding.what for finding in look_at_board(Host(), clock_state()) if finding.area == "energy"]
    assert len(said) == 1 and "ltc4215 power1, battery sbs-" in said[0], said


def check_a_battery_that_is_charged_is_no_meter() -> None:
    set_register(BATTERY, _STATUS, 0)
    set_register(BATTERY, _CURRENT, 900)
    deadline = time.monotonic() + 20
    while len(find_meters()[0]) != 1:  # the driver looks again once a second
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert [meter.name for meter in find_meters()[0]] == ["ltc4215 power1"]
