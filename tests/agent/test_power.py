"""Meters of power, of which this computer may have none: folders laid out as the kernel's documentation has them.

Two that the kernel's own drivers feed are in ``tests/system/power_checks.py``. Of a Raspberry Pi 5 none was at hand.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real import run_cli

from vedette import durable
from vedette.clock import clock_state
from vedette.doctor.board import look_at_board
from vedette.doctor.host import Host
from vedette.power import Meter, Stretch, find_meters, read_rails

RAPL = {
    "intel-rapl:0/name": "package-0", "intel-rapl:0/energy_uj": "262100000000",
    "intel-rapl:0/max_energy_range_uj": "262143328850",
    "intel-rapl:0:0/name": "core", "intel-rapl:0:0/energy_uj": "5", "intel-rapl:0:0/max_energy_range_uj": "262143328850",
    "intel-rapl:0:1/name": "dram", "intel-rapl:0:1/energy_uj": "7", "intel-rapl:0:1/max_energy_range_uj": "65712999613",
    "intel-rapl:1/name": "psys", "intel-rapl:1/energy_uj": "9", "intel-rapl:1/max_energy_range_uj": "262143328850",
    "intel-rapl/enabled": "1",
}  # fmt: skip
JETSON = {
    "hwmon2/name": "ina3221", "hwmon2/in1_label": "VDD_IN", "hwmon2/in1_input": "5000", "hwmon2/curr1_input": "1200",
    "hwmon2/in2_label": "VDD_CPU_GPU_CV", "hwmon2/in2_input": "5000", "hwmon2/curr2_input": "400",
    "hwmon2/curr4_input": "1",
}  # fmt: skip
RAILS = """\
     3V3_SYS_A current(1)=0.10000000A
      VDD_CORE_A current(7)=1.50000000A
       3V3_SYS_V volt(9)=3.30000000V
      VDD_CORE_V volt(15)=0.80000000V
         EXT5V_V volt(24)=5.14000000V
          BATT_V volt(25)=0.00000000V
"""


def lay(folder: Path, files: dict[str, str]) -> Path:
    """As sysfs has them: a line each."""
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return folder


def names(root: Path) -> list[str]:
    return [meter.name for meter in find_meters(root)[0]]


def count(zone: Path, microjoules: int) -> None:
    """In one step, as the kernel does it: a meter may be read at any moment."""
    with durable.replacing(zone / "energy_uj") as half:
        half.write_text(str(microjoules))


def test_a_processors_counters_begin_anew_within_a_stretch(tmp_path: Path) -> None:
    powercap = lay(tmp_path / "sys/class/powercap", RAPL)
    meters, refused = find_meters(tmp_path)
    assert refused == []
    assert [meter.name for meter in meters] == [
        "intel-rapl package-0", "intel-rapl package-0 dram", "intel-rapl psys",
    ]  # fmt: skip
    with Stretch(meters) as stretch:
        count(powercap / "intel-rapl:0", 262143000000)
        time.sleep(0.6)
        count(powercap / "intel-rapl:0", 1000000)
        count(powercap / "intel-rapl:0:1", 2500007)
    taken = {row.meter: row for row in stretch.taken()}
    assert taken["intel-rapl package-0"].joules == pytest.approx(262143.328850 - 262100 + 1)
    assert taken["intel-rapl package-0 dram"].joules == pytest.approx(2.5)
    assert taken["intel-rapl psys"].joules == 0
    assert taken["intel-rapl psys"].seconds == pytest.approx(taken["intel-rapl package-0"].seconds)


def test_what_is_counted_is_not_made_up() -> None:
    answers: Iterator[float | None] = iter([5.0, 3.0])
    with Stretch([Meter("set back", lambda: next(answers, 3.0), True)]) as stretch:
        pass
    assert stretch.taken() == []
    silent = iter([1.0, None, 1.0])
    with Stretch([Meter("away for a moment", lambda: next(silent, 1.0), False)]) as stretch:
        time.sleep(0.6)
    assert stretch.taken() == []


def test_between_two_readings_a_gauge_has_changed_evenly() -> None:
    assert Meter("", lambda: None, False).between(2.0, 4.0, 10.0) == 30.0


def test_a_jetsons_rails_are_products(tmp_path: Path) -> None:
    lay(tmp_path / "sys/class/hwmon", JETSON)
    meters, _ = find_meters(tmp_path)
    assert {meter.name: meter.read() for meter in meters} == pytest.approx(
        {"ina3221 VDD_IN": 6.0, "ina3221 VDD_CPU_GPU_CV": 2.0}
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"name": "ina226", "power1_input": "3250000", "power1_average": "1"}, {"ina226 power1": 3.25}),
        ({"name": "power_meter", "power1_average": "90000000"}, {"power_meter power1": 90.0}),
        ({"name": "amd_energy", "energy1_label": "Esocket0", "energy1_input": "7"}, {"amd_energy Esocket0": 7e-6}),
        ({"name": "ltc2947", "power1_input": "garbage"}, {}),
        ({"name": "ltc2947", "power1_input": "9" * 400}, {}),
        ({"name": "lm75", "temp1_input": "41000", "in0_input": "5000", "curr1_input": "100"}, {}),
        ({"power1_input": "1000000"}, {"hwmon0 power1": 1.0}),
    ],
)
def test_chips_that_measure(tmp_path: Path, files: dict[str, str], expected: dict[str, float]) -> None:
    lay(tmp_path / "sys/class/hwmon/hwmon0", files)
    assert {meter.name: meter.read() for meter in find_meters(tmp_path)[0]} == pytest.approx(expected)


def test_a_battery_is_not_found_a_second_time_among_the_chips(tmp_path: Path) -> None:
    battery = lay(
        tmp_path / "sys/devices/power_supply/BAT0",
        {"type": "Battery", "status": "Discharging", "power_now": "8000000"},
    )
    (tmp_path / "sys/class/power_supply").mkdir(parents=True)
    (tmp_path / "sys/class/power_supply/BAT0").symlink_to(battery)
    chip = lay(tmp_path / "sys/class/hwmon/hwmon1", {"name": "BAT0", "power1_input": "8000000"})
    (chip / "device").symlink_to(battery)
    assert names(tmp_path) == ["battery BAT0"]
    (battery / "status").write_text("Full\n")
    assert names(tmp_path) == []


def test_two_chips_of_a_kind_are_told_apart(tmp_path: Path) -> None:
    for chip, watts in (("hwmon0", "1000000"), ("hwmon1", "2000000")):
        lay(tmp_path / "sys/class/hwmon" / chip, {"name": "ina226", "power1_input": watts})
    meters, _ = find_meters(tmp_path)
    assert {meter.name: meter.read() for meter in meters} == {"ina226 power1": 1.0, "ina226 power1 (2)": 2.0}


def test_a_raspberry_pi_5_tells_of_its_rails(tmp_path: Path) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{RAILS}END\n")
    program.chmod(0o755)
    assert read_rails(str(program)) == pytest.approx(3.3 * 0.1 + 1.5 * 0.8)
    assert [meter.name for meter in find_meters(tmp_path, str(program))[0]] == ["pmic (rails)"]
    program.write_text("#!/bin/sh\necho 'error=1 error_msg=\"Command not registered\"'\nexit 255\n")
    assert read_rails(str(program)) is None, "a Pi before the 5"
    assert find_meters(tmp_path, str(program)) == ([], [])
    assert read_rails(str(tmp_path / "none")) is None


def test_what_only_root_may_read_is_said() -> None:
    with tempfile.TemporaryDirectory() as folder:  # which somebody else may enter
        root = Path(folder)
        root.chmod(0o755)
        powercap = lay(root / "sys/class/powercap", {k: v for k, v in RAPL.items() if k.startswith("intel-rapl:1")})
        (powercap / "intel-rapl:1/energy_uj").chmod(0o000)
        before = os.geteuid()
        try:
            if before == 0:
                os.seteuid(65534)
            assert find_meters(root) == ([], ["intel-rapl psys"])
            found = look_at_board(Host(root, path=""), clock_state())
        finally:
            os.seteuid(before)
        energy = next(finding for finding in found if finding.area == "energy")
        assert (energy.verdict, energy.what) == ("ok", "intel-rapl psys may be read by root alone")
        assert "sudo vedette bench" in energy.fix


def test_doctor_says_what_there_is(tmp_path: Path) -> None:
    def energy() -> str:
        return next(f.what for f in look_at_board(Host(tmp_path, path=""), clock_state()) if f.area == "energy")

    assert energy().startswith("no meter in this machine")
    lay(tmp_path / "sys/class/hwmon", JETSON)
    assert energy() == "ina3221 VDD_IN, ina3221 VDD_CPU_GPU_CV: vedette bench measures it"


def test_bench_measures_it(tmp_path: Path) -> None:
    """A stand-in that says 2 W for the two seconds of idleness, and 5 W then."""
    program = tmp_path / "vcgencmd"
    begun = tmp_path / "begun"
    program.write_text(
        f"#!/bin/sh\n[ -e {begun} ] || touch {begun}\n"
        f"age=$(( $(date +%s%N) - $(stat -c %.9Y {begun} | tr -d .) ))\n"
        "amperes=5; [ $age -gt 2100000000 ] || amperes=2\n"
        'echo "VDD_A current(0)=$amperes.0A"; echo "VDD_V volt(1)=1.0V"\n'
    )
    program.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = run_cli("bench", "cifar10-resnet8", "--seconds", "2", "--json", **path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    rows: list[dict[str, Any]] = [row for row in document["energy"] if row["meter"] == "pmic (rails)"]
    assert len(rows) == 1
    row = rows[0]
    nearly = 1e-9  # sums of products
    assert 2.0 - nearly <= row["idle_watts"] < row["watts"] <= 5.0 + nearly
    seconds = document["runs"] * row["joules_a_run"] / row["watts"]
    assert seconds >= 2.0
    assert row["joules_above_idle_a_run"] * document["runs"] == pytest.approx(
        (row["watts"] - row["idle_watts"]) * seconds
    )
    program.write_text('#!/bin/sh\necho "VDD_A current(0)=2.0A"; echo "VDD_V volt(1)=1.0V"\n')
    told = run_cli("bench", "cifar10-resnet8", "--seconds", "0.3", **path)
    assert re.search(
        r"^energy: [\d.]+ [mµ]J a picture, of which 0.00 above idle \(2.00 W, idle 2.00 W; pmic \(rails\)\)$",
        told.stdout, re.MULTILINE,
    )  # fmt: skip
