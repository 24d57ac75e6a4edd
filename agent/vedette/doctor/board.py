"""Board, power, heat, memory, storage, clock."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from vedette.clock import ClockState
from vedette.power import find_meters
from vedette.service.health import THROTTLED_BITS, THROTTLED_FILES, THROTTLED_NOW, throttled_words

from .host import Finding, Host, Verdict

WARM_C: Final = 70.0
HOT_C: Final = 80.0  # a Raspberry Pi's firmware slows down from here
SCARCE_MEMORY: Final = 150e6  # bytes; an agent with the shipped detector takes about 100 MB
SCARCE_DISK: Final = 500e6
FULL_DISK: Final = 50e6
_IN_MEMORY: Final = ("tmpfs", "ramfs")


def look_at_board(host: Host, clock: ClockState) -> list[Finding]:
    """``clock``: as the kernel says it; no file does."""
    return [
        _board(host), *_word_size(host), *_power(host), _meters(host), *_heat(host), *_memory(host), _clock(clock),
    ]  # fmt: skip


def _board(host: Host) -> Finding:
    model = host.text("/proc/device-tree/model") or _cpu(host) or "unknown"
    cores = len(host.glob("/sys/devices/system/cpu/cpu[0-9]*")) or os.cpu_count()
    governor = host.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    words = f"{model}, {cores} cores" + (f", governor {governor}" if governor else "")
    if governor == "powersave":
        return Finding(
            "board", "warn", words, "it stays at its lowest frequency: set the governor to ondemand or schedutil"
        )
    return Finding("board", "ok", words)


def _cpu(host: Host) -> str | None:
    for line in (host.text("/proc/cpuinfo") or "").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return None


def _word_size(host: Host) -> list[Finding]:
    # the ELF header's fifth byte says what programs of this system are (elf(5), EI_CLASS)
    try:
        with host.at("/proc/self/exe" if host.root == Path("/") else "/bin/sh").open("rb") as file:
            elf = file.read(5)
    except OSError:
        return []
    if elf[:4] != b"\x7fELF" or elf[4] != 1:
        return []
    words = "programs are 32-bit: LiteRT, numpy and OpenCV have no wheels for them"
    return [Finding("board", "bad", words, "install a 64-bit Raspberry Pi OS")]


def _power(host: Host) -> list[Finding]:
    for file in host.glob(f"/sys/devices/platform/{THROTTLED_FILES}"):
        try:
            bits = int(host.text(file) or "", 16)
        except ValueError:
            continue
        if not bits:
            return [Finding("power", "ok", "enough, never throttled since boot")]
        words = f"{', '.join(throttled_words(bits))} ({bits:#x})"
        low = any(bits & 1 << bit for bit, said in THROTTLED_BITS.items() if "under-voltage" in said)
        fix = (
            "a stronger power supply and a shorter cable (5.1 V at the board)" if low
            else "better cooling: a heat sink, a fan, air around the board"
        )  # fmt: skip
        return [Finding("power", "bad" if bits & THROTTLED_NOW else "warn", words, fix)]
    return []


def _meters(host: Host) -> Finding:
    program = host.program("vcgencmd")
    meters, refused = find_meters(host.root, str(host.at(program)) if program else None)
    named = ", ".join(meter.name for meter in meters)
    if refused:
        for_root = f"{', '.join(refused)} may be read by root alone"
        return Finding("energy", "ok", f"{named}; {for_root}" if named else for_root, "sudo vedette bench measures it")
    if named:
        return Finding("energy", "ok", f"{named}: vedette bench measures it")
    return Finding("energy", "ok", "no meter in this machine: one at the plug would say what it takes")


def _heat(host: Host) -> list[Finding]:
    values = [
        value / 1000
        for zone in host.glob("/sys/class/thermal/thermal_zone*/temp")
        if (value := host.number(zone)) is not None
    ]
    if not values:
        return []
    warm = max(values)
    if warm >= WARM_C:
        verdict: Verdict = "bad" if warm >= HOT_C else "warn"
        return [
            Finding(
                "temperature", verdict, f"{warm:.1f} °C; a Raspberry Pi slows down from {HOT_C:g} °C", "better cooling"
            )
        ]
    return [Finding("temperature", "ok", f"{warm:.1f} °C")]


def _memory(host: Host) -> list[Finding]:
    sizes = {}
    for line in (host.text("/proc/meminfo") or "").splitlines():
        fields = line.split()
        if len(fields) >= 2 and fields[1].isdigit():
            sizes[fields[0].rstrip(":")] = int(fields[1]) * 1024
    total, available, swap = (sizes.get(name, 0) for name in ("MemTotal", "MemAvailable", "SwapTotal"))
    words = f"{available / 1e6:.0f} MB of {total / 1e6:.0f} MB available, swap {swap / 1e6:.0f} MB"
    found = [Finding("memory", "ok", words)]
    if available < SCARCE_MEMORY:
        fix = "an agent with the shipped detector takes about 100 MB: end what is not needed"
        found = [Finding("memory", "warn", words, fix)]
    for line in (host.text("/proc/swaps") or "").splitlines()[1:]:
        name, kind = line.split()[:2]
        if kind == "file" or "mmcblk" in name:
            found.append(
                Finding(
                    "memory", "warn", f"swap is on the card: {name}", "swapping wears it and is slow; zram is in memory"
                )
            )
    return found


def _clock(state: ClockState) -> Finding:
    if state == "synced":
        return Finding("clock", "ok", "synchronised")
    return Finding(
        "clock", "warn", "not synchronised: messages say so, and their times may be wrong",
        "timedatectl status says why; sudo timedatectl set-ntp true",
    )  # fmt: skip


class Mount(NamedTuple):
    """Where a folder is: device, type of file system, whether it may be written."""

    device: str
    kind: str
    read_only: bool


def mount_of(host: Host, folder: str) -> Mount | None:
    """By /proc/self/mountinfo (proc(5)): the longest mount point above the folder, of equals the last."""
    found: tuple[int, Mount] | None = None
    for line in (host.text("/proc/self/mountinfo") or "").splitlines():
        fields, separator, rest = line.partition(" - ")
        words, source = fields.split(), rest.split()
        if not separator or len(words) < 6 or len(source) < 3:
            continue
        point = words[4].replace("\\040", " ")
        inside = folder == point or folder.startswith(f"{point.rstrip('/')}/")
        if inside and (found is None or len(point) >= found[0]):
            options = {*words[5].split(","), *source[2].split(",")}
            found = len(point), Mount(source[1], source[0], "ro" in options)
    return None if found is None else found[1]


def look_at_storage(host: Host, folder: str) -> list[Finding]:
    """``folder``: where the state is, or will be."""
    there = folder
    while not host.exists(there) and there != "/":
        there = str(Path(there).parent)
    mount = mount_of(host, there)
    disk = os.statvfs(host.at(there))
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    where = f"{folder}{'' if there == folder else ' (yet to be made)'}"
    words = f"{where}: {free / 1e9:.1f} GB of {size / 1e9:.1f} GB free"
    if mount is not None:
        words += f" on {_medium(host, mount)}"
    if mount is not None and (mount.read_only or disk.f_flag & os.ST_RDONLY):
        return [
            Finding("state", "bad", f"{words}, which is read-only", "put state_dir on a file system that is written to")
        ]
    if mount is not None and mount.kind in (*_IN_MEMORY, "overlay"):
        return [
            Finding("state", "warn", f"{words}: what it keeps is lost when the device goes down",
                    "put state_dir on a card or disk, for the epoch and what waits for the broker")
        ]  # fmt: skip
    if free < SCARCE_DISK:
        return [
            Finding(
                "state", "bad" if free < FULL_DISK else "warn", words, "make room: what waits for the broker needs it"
            )
        ]
    mode = os.W_OK | os.X_OK
    if host.uid == os.geteuid() and not os.access(host.at(there), mode):
        return [
            Finding(
                "state",
                "warn",
                f"{words}; not for {host.user} to write",
                "run it as the user of the agent: sudo -u vedette",
            )
        ]
    return [Finding("state", "ok", words)]


def _medium(host: Host, mount: Mount) -> str:
    name = mount.device.rpartition("/")[2]
    if name.startswith("mmcblk"):
        kind = host.text(f"/sys/block/{name.partition('p')[0]}/device/type") or "SD"
        return f"an {'SD card' if kind == 'SD' else 'eMMC'} ({mount.device}, {mount.kind})"
    return f"{mount.device} ({mount.kind})"
