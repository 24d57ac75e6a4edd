"""``vedette doctor``. A folder laid out like the file system of a Raspberry Pi stands in for one: none was at hand."""

from __future__ import annotations

import json
import os
import py_compile
import sys
import tomllib
from pathlib import Path

import pytest
from real import ROOT, TINY, BrokerAddress, agent_config, run_cli

from vedette.doctor import software
from vedette.doctor.board import look_at_board, look_at_storage, mount_of
from vedette.doctor.devices import look_at_devices
from vedette.doctor.host import Finding, Host
from vedette.engine import load_runtime
from vedette.engine.int8 import int8_speed

PI = {
    "/proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5\0",
    "/proc/meminfo": "MemTotal: 1000000 kB\nMemAvailable: 512000 kB\nSwapTotal: 102400 kB\n",
    "/proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 102396 0 100\n",
    "/proc/self/mountinfo": "25 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw\n"
    "30 25 0:24 / /run rw,nosuid - tmpfs tmpfs rw\n31 25 179:1 / /boot/firmware ro - vfat /dev/mmcblk0p1 ro\n",
    "/sys/block/mmcblk0/device/type": "SD",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand",
    "/sys/devices/system/cpu/cpu1/online": "1",
    "/sys/devices/platform/soc/soc:firmware/get_throttled": "0",
    "/sys/class/thermal/thermal_zone0/temp": "61250",
    "/sys/class/video4linux/video0/name": "HD Webcam: HD Webcam",
    "/sys/class/video4linux/video0/index": "0",
    "/sys/class/video4linux/video1/name": "HD Webcam: HD Webcam",
    "/sys/class/video4linux/video1/index": "1",
    "/sys/class/video4linux/video10/name": "bcm2835-codec-decode",
    "/sys/class/video4linux/video14/name": "unicam-image",
    "/sys/bus/iio/devices/iio:device0/name": "adxl345",
    "/sys/bus/iio/devices/iio:device0/in_accel_x_raw": "12",
    "/sys/bus/iio/devices/iio:device0/in_accel_y_raw": "-3",
    "/sys/bus/usb/devices/2-1/idVendor": "18d1",
    "/sys/bus/usb/devices/2-1/idProduct": "9302",
    "/sys/bus/usb/devices/2-1/busnum": "2",
    "/sys/bus/usb/devices/2-1/devnum": "3",
    "/sys/bus/usb/devices/2-1/speed": "5000",
    "/usr/lib/aarch64-linux-gnu/libedgetpu.so.1": "",
    "/usr/lib/aarch64-linux-gnu/libcamera.so.0.3": "",
    "/usr/bin/rpicam-vid": "#!/bin/sh\n",
    "/dev/video0": "",
    "/dev/ttyUSB0": "",
    "/dev/bus/usb/002/003": "",
    "/etc/passwd": "root:x:0:0::/root:/bin/sh\npi:x:1000:1000::/home/pi:/bin/sh\n",
    "/run/systemd/system/.keep": "",
    "/etc/systemd/system/vedette.service": "[Service]\n",
    "/etc/systemd/system/multi-user.target.wants/vedette.service": "[Service]\n",
    "/sys/fs/cgroup/system.slice/vedette.service/cgroup.procs": "812\n",
    "/var/lib/vedette/epoch": "41",
    "/boot/firmware/config.txt": "",
}
NOBODY = 1000


def board(folder: Path, changes: dict[str, str | None] | None = None, groups: tuple[int, ...] = ()) -> Host:
    """A Raspberry Pi with these files in the place of its own; None: without it."""
    group = os.getegid()  # of whatever this test writes, and of the devices
    files: dict[str, str | None] = {**PI, "/etc/group": f"root:x:99999:\nvideo:x:{group}:\n", **(changes or {})}
    for path, content in files.items():
        if content is None:
            continue
        file = folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(0o755 if "/bin/" in path else 0o660 if path.startswith("/dev/") else 0o644)
    return Host(folder, uid=NOBODY, groups=groups, path="/usr/local/bin:/usr/bin")


def said(findings: list[Finding], area: str) -> list[tuple[str, str]]:
    return [
        (finding.verdict, f"{finding.what}; {finding.fix}".rstrip("; ")) for finding in findings if finding.area == area
    ]


def test_a_board_that_is_well(tmp_path: Path) -> None:
    found = look_at_board(board(tmp_path), "synced")
    assert {finding.verdict for finding in found} == {"ok"}
    [words] = [finding.what for finding in found if finding.area == "board"]
    assert words == "Raspberry Pi 4 Model B Rev 1.5, 2 cores, governor ondemand"
    assert said(found, "temperature") == [("ok", "61.2 °C")]
    assert said(found, "memory") == [("ok", "524 MB of 1024 MB available, swap 105 MB")]
    assert said(found, "power") == [("ok", "enough, never throttled since boot")]


# a Raspberry Pi 5 has it below its soc's address
PI_5 = "/sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
THROTTLED = "/sys/devices/platform/soc/soc:firmware/get_throttled"


@pytest.mark.parametrize(
    ("changes", "area", "verdict", "words"),
    [
        ({THROTTLED: "50005"}, "power", "bad", "under-voltage now, throttled now (0x50005); a stronger power supply"),
        ({THROTTLED: "50000"}, "power", "warn", "under-voltage since boot, throttled since boot"),
        ({THROTTLED: "80000"}, "power", "warn", "soft temperature limit since boot (0x80000); better cooling"),
        ({THROTTLED: None, PI_5: "1"}, "power", "bad", "under-voltage now"),
        ({"/sys/class/thermal/thermal_zone0/temp": "74000"}, "temperature", "warn", "74.0 °C"),
        ({"/sys/class/thermal/thermal_zone0/temp": "85000"}, "temperature", "bad", "85.0 °C"),
        ({"/proc/meminfo": "MemTotal: 430000 kB\nMemAvailable: 90000 kB\n"}, "memory", "warn", "92 MB of 440 MB available"),
        ({"/proc/swaps": "Filename Type\n/var/swap file 102396 0 -2\n"}, "memory", "warn", "swap is on the card: /var/swap"),
        ({"/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave"}, "board", "warn", "lowest frequency"),
        ({"/bin/sh": "\x7fELF\x01"}, "board", "bad", "programs are 32-bit"),
    ],
)  # fmt: skip
def test_a_board_that_is_not(
    tmp_path: Path, changes: dict[str, str | None], area: str, verdict: str, words: str
) -> None:
    lines = [line for kind, line in said(look_at_board(board(tmp_path, changes), "synced"), area) if kind == verdict]
    assert len(lines) == 1 and words in lines[0]


def test_nothing_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    host = Host(tmp_path, uid=NOBODY, groups=())
    found = [*look_at_board(host, "unsynced"), *look_at_devices(host), *software.look_at_unit(host)]
    assert {finding.verdict for finding in found} == {"ok", "warn"}
    assert said(found, "clock")[0][0] == "warn"


def test_devices_and_who_may_open_them(tmp_path: Path) -> None:
    stranger = look_at_devices(board(tmp_path))
    assert said(stranger, "camera") == [
        ("warn", "v4l2:///dev/video0 (HD Webcam: HD Webcam): may not be opened by pi (group video); "
                 "sudo usermod -aG video pi, and log in again"),
        ("ok", "rpicam://: /usr/bin/rpicam-vid"),
    ]  # fmt: skip
    assert [verdict for verdict, _ in said(stranger, "serial")] == ["warn"]
    member = look_at_devices(board(tmp_path, groups=(os.getegid(),)))
    assert {finding.verdict for finding in member} == {"ok"}
    assert said(member, "serial") == [("ok", "serial:///dev/ttyUSB0: you may open it")]
    assert said(member, "sensor") == [("ok", "iio:///sys/bus/iio/devices/iio:device0 (adxl345): accel_x, accel_y")]
    assert said(member, "accelerator")[0] == ("ok", "Edge TPU on USB (ready), /dev/bus/usb/002/003: you may open it")


def test_what_is_missing_beside_devices(tmp_path: Path) -> None:
    changes: dict[str, str | None] = {
        "/usr/bin/rpicam-vid": None, "/usr/lib/aarch64-linux-gnu/libedgetpu.so.1": None, "/dev/apex_0": "",
        "/sys/bus/usb/devices/2-1/speed": "480",
    }  # fmt: skip
    found = look_at_devices(board(tmp_path, changes, (os.getegid(),)))
    assert (
        "warn",
        "a Raspberry Pi camera's connector, but no rpicam-vid; sudo apt-get install rpicam-apps-lite",
    ) in said(found, "camera")
    words = " ".join(line for verdict, line in said(found, "accelerator") if verdict == "warn")
    assert "no libedgetpu.so.1" in words and "USB 2 port" in words
    assert ("ok", "Edge TPU on PCIe, /dev/apex_0: you may open it") in said(found, "accelerator")


def test_where_the_state_is(tmp_path: Path) -> None:
    host = board(tmp_path)
    assert mount_of(host, "/run/vedette") == ("tmpfs", "tmpfs", False)
    assert mount_of(host, "/runner") == ("/dev/mmcblk0p2", "ext4", False)
    [card] = look_at_storage(host, "/var/lib/vedette")
    assert "on an SD card (/dev/mmcblk0p2, ext4)" in card.what and card.verdict in ("ok", "warn")
    [memory] = look_at_storage(host, "/run/vedette")
    assert memory.verdict == "warn" and "lost when the device goes down" in memory.what
    [locked] = look_at_storage(host, "/boot/firmware/vedette")
    assert locked.verdict == "bad" and "(yet to be made)" in locked.what and "read-only" in locked.what


def test_the_unit(tmp_path: Path) -> None:
    [finding] = software.look_at_unit(board(tmp_path / "a"))
    assert (finding.verdict, finding.what) == ("ok", "/etc/systemd/system/vedette.service, enabled, active")
    idle: dict[str, str | None] = {"/sys/fs/cgroup/system.slice/vedette.service/cgroup.procs": None}
    [finding] = software.look_at_unit(board(tmp_path / "b", idle))
    assert (finding.verdict, finding.fix) == ("warn", "sudo systemctl start vedette")
    without: dict[str, str | None] = {path: None for path in PI if "vedette.service" in path}
    [finding] = software.look_at_unit(board(tmp_path / "c", without))
    assert finding.verdict == "warn" and "no vedette.service" in finding.what


def test_what_is_supported_is_what_the_package_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (low, high) = software.PYTHON
    assert project["requires-python"] == f">={low[0]}.{low[1]},<{high[0]}.{high[1]}"
    asked = {line.split(">=")[0]: line.split(">=")[1].split(",")[0] for line in project["dependencies"] if ">=" in line}
    for name, least in software.PACKAGES.items():
        assert asked[name] == ".".join(map(str, least))


def test_a_python_and_a_package_that_are_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "PYTHON", ((3, 99), (3, 100)))
    monkeypatch.setattr(software, "PACKAGES", {"numpy": (99, 0), "no-such-package": (1, 0)})
    found = software.look_at_software()
    assert [finding.verdict for finding in found][:3] == ["bad", "bad", "bad"]
    assert "expected 3.99 to 3.99" in found[0].what and "expected 99.0 or newer" in found[1].what


def test_nothing_compiled_is_a_slow_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "module.py"
    source.write_text("")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    [finding] = software._compiled(str(source))
    assert (finding.verdict, finding.fix) == ("warn", "unset PYTHONDONTWRITEBYTECODE")
    py_compile.compile(str(source))
    assert software._compiled(str(source)) == []


def test_int8_is_timed_with_and_without_xnnpack() -> None:
    runtime = load_runtime()
    speed = int8_speed(TINY, runtime)
    assert speed.default_ms > 0 and speed.builtin_ms > 0
    assert speed.delegated is (runtime.name == "litert")


def test_on_this_machine(broker: BrokerAddress, tmp_path: Path) -> None:
    config = agent_config(tmp_path, broker.port, 'url = "x.mp4"', mqtt=f'protocol = "{broker.protocols[0]}"')
    outcome = run_cli("doctor", "-c", config, "--json")
    document = json.loads(outcome.stdout)
    assert outcome.returncode == (2 if document["verdict"] == "bad" else 0) and outcome.stderr == ""
    areas = {finding["area"]: finding["verdict"] for finding in document["findings"]}
    assert {
        "board",
        "memory",
        "clock",
        "state",
        "camera",
        "python",
        "package",
        "runtime",
        "int8",
        "config",
        "broker",
    } <= set(areas)
    assert (areas["config"], areas["broker"], areas["python"]) == ("ok", "ok", "ok")
    lines = run_cli("doctor", "-c", config).stdout.splitlines()
    assert len(lines) == len(document["findings"])
    assert {line.split()[0] for line in lines} <= {"ok", "warn", "bad"}


def test_a_configuration_and_a_broker_that_are_bad(tmp_path: Path) -> None:
    config = agent_config(tmp_path, 1, 'url = "x.mp4"')
    outcome = run_cli("doctor", "-c", config)
    assert outcome.returncode == 2
    assert [
        line
        for line in outcome.stdout.splitlines()
        if line.startswith("bad") and "broker: " in line and "no broker" in line
    ]
    config.write_text("nonsense = 1\n")
    outcome = run_cli("doctor", "-c", config)
    assert outcome.returncode == 2 and "config: " in outcome.stdout and "unknown key" in outcome.stdout
