"""Cameras, sensors, accelerators: which there are, and who may open them."""

from __future__ import annotations

import re
from typing import Final

from .host import Finding, Host

# nodes of /dev/video* that are no cameras: a Raspberry Pi has a dozen codecs and image processors beside them
_NO_CAMERA: Final = re.compile(r"codec|isp|rpivid|hevc|m2m|decoder|encoder", re.IGNORECASE)
# raw receivers of the camera's connector, which rpicam-vid drives and nobody reads without it
_RECEIVER: Final = re.compile(r"unicam|rp1-cfe|csi2?", re.IGNORECASE)
# before and after its firmware has been loaded
_EDGETPU_USB: Final = {("1a6e", "089a"): "not yet woken", ("18d1", "9302"): "ready"}


def look_at_devices(host: Host) -> list[Finding]:
    """Everything that could give pictures or readings, or run a network."""
    return [*_cameras(host), *_serial(host), *_iio(host), *_accelerators(host)]


def _cameras(host: Host) -> list[Finding]:
    found: list[Finding] = []
    receivers = False
    for entry in host.glob("/sys/class/video4linux/video*"):
        name = host.text(f"{entry}/name") or "no name"
        if _RECEIVER.search(name):
            receivers = True
        if _NO_CAMERA.search(name) or _RECEIVER.search(name) or host.text(f"{entry}/index") not in ("0", None):
            continue  # the second node of a USB camera gives metadata, no pictures
        node = f"/dev/{entry.rpartition('/')[2]}"
        may, words, fix = host.access(node)
        found.append(Finding("camera", "ok" if may else "warn", f"v4l2://{node} ({name}): {words}", fix))
    program = host.program("rpicam-vid") or host.program("libcamera-vid")
    library = next(iter([*host.glob("/usr/lib/*/libcamera.so.*"), *host.glob("/usr/lib/libcamera.so.*")]), None)
    if program is not None:
        found.append(Finding("camera", "ok", f"rpicam://: {program}" + ("" if library else ", libcamera not found")))
    elif receivers:
        fix = "sudo apt-get install rpicam-apps-lite"
        found.append(Finding("camera", "warn", "a Raspberry Pi camera's connector, but no rpicam-vid", fix))
    if not found:
        found.append(Finding("camera", "ok", "none at this device; rtsp:// and http:// cameras need none"))
    return found


def _serial(host: Host) -> list[Finding]:
    found = []
    for pattern in ("ttyUSB*", "ttyACM*", "ttyAMA*", "serial[0-9]"):
        for node in host.glob(f"/dev/{pattern}"):
            may, words, fix = host.access(node)
            found.append(Finding("serial", "ok" if may else "warn", f"serial://{node}: {words}", fix))
    return found


def _iio(host: Host) -> list[Finding]:
    found = []
    for entry in host.glob("/sys/bus/iio/devices/iio:device*"):
        name = host.text(f"{entry}/name") or "no name"
        channels = sorted(
            {
                path.rpartition("/")[2].removeprefix("in_").removesuffix("_raw")
                for path in host.glob(f"{entry}/in_*_raw")
            }
            | {
                path.rpartition("/")[2].removeprefix("in_").removesuffix("_input")
                for path in host.glob(f"{entry}/in_*_input")
            }
        )
        words = f"iio://{entry} ({name}): {', '.join(channels[:9]) or 'no channels'}"
        found.append(
            Finding("sensor", "ok" if channels else "warn", words, "" if channels else "is its driver complete?")
        )
    return found


def _accelerators(host: Host) -> list[Finding]:
    libraries = [p for folder in ("lib", "lib/*", "local/lib") for p in host.glob(f"/usr/{folder}/libedgetpu.so*")]
    found = []
    devices = 0
    for node in host.glob("/dev/apex_*"):
        devices += 1
        may, words, fix = host.access(node)
        found.append(Finding("accelerator", "ok" if may else "warn", f"Edge TPU on PCIe, {node}: {words}", fix))
    for entry in host.glob("/sys/bus/usb/devices/*/idVendor"):
        folder = entry.rpartition("/")[0]
        said = _EDGETPU_USB.get((host.text(entry) or "", host.text(f"{folder}/idProduct") or ""))
        if said is None:
            continue
        devices += 1
        bus, number = host.number(f"{folder}/busnum"), host.number(f"{folder}/devnum")
        node = f"/dev/bus/usb/{int(bus or 0):03d}/{int(number or 0):03d}"
        may, words, fix = host.access(node)
        slow = (host.number(f"{folder}/speed") or 5000) < 5000
        text = f"Edge TPU on USB ({said}), {node}: {words}" + ("; on a USB 2 port" if slow else "")
        fix = fix or ("a USB 3 port (blue) is several times faster" if slow else "")
        found.append(Finding("accelerator", "ok" if may and not slow else "warn", text, fix))
    if devices and not libraries:
        fix = "install Coral's libedgetpu1-std"
        found.append(Finding("accelerator", "warn", "an Edge TPU, but no libedgetpu.so.1", fix))
    elif libraries:
        found.append(
            Finding("accelerator", "ok", f"{libraries[0]}" + ("" if devices else ", but no Edge TPU is connected"))
        )
    else:
        found.append(Finding("accelerator", "ok", "none: models run on the CPU"))
    return found
