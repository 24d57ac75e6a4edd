"""A Linux of its own in qemu, whose file system is this computer's, read-only: for devices that only a kernel can make.

No image is built: the guest's root is ``/`` over 9p, so that it runs this very Python with these very packages, and the
kernel's modules come from ``/lib/modules``. Emulated in software, for /dev/kvm is not everywhere.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TOOLS = ("qemu-system-x86_64", "busybox")
_ROOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p")
_MEMORY_MIB = 1024


def why_not(*modules: str) -> str | None:
    """What this computer lacks for a guest with these kernel modules, or None."""
    if platform.machine() != "x86_64":
        return "needs an x86-64 computer, whose programs the guest runs"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: qemu-system-x86 busybox-static)"
    if _kernel() is None:
        return "needs a readable kernel with its modules (Debian: linux-image-amd64)"
    unknown = [name for name in (*_ROOT_MODULES, *modules) if not _files([name])]
    if unknown:
        return (
            f"needs a kernel with the modules {', '.join(unknown)} (Debian: linux-image-amd64, not its cloud variant)"
        )
    return None


@dataclass(frozen=True)
class Outcome:
    """What a program printed on the guest's console, and its exit code."""

    text: str
    exit_code: int


def run_in_guest(
    folder: Path, command: Sequence[str], *, modules: Sequence[str], environment: dict[str, str], timeout_s: float
) -> Outcome:
    """Boots, loads the modules, runs the command as root, powers off. ``folder`` takes the start-up archive.

    ``modules``: a name each, and parameters behind it as for insmod.
    """
    kernel = _kernel()
    assert kernel is not None
    archive = folder / "initrd"
    parameters = dict(name.replace("-", "_").split(" ", 1) for name in modules if " " in name)
    files = _files([*_ROOT_MODULES, *(name.split(" ")[0] for name in modules)])
    loaded = [(file, parameters.get(_module(file.name), "")) for file in files]
    archive.write_bytes(_initrd(loaded, command, environment))
    done = subprocess.run(
        [
            "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", str(_MEMORY_MIB), "-smp", "2", "-nodefaults",
            "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", str(kernel), "-initrd", str(archive),
            "-append", "console=ttyS0 quiet panic=-1 mitigations=off",
            "-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s, check=False,
    )  # fmt: skip
    text = done.stdout.decode(errors="replace").replace("\r\n", "\n")
    ended = re.search(r"^GUEST EXIT (\d+)$", text, re.MULTILINE)
    assert ended, f"the guest did not run to its end:\n{text[-3000:]}"
    return Outcome(text[: ended.start()], int(ended[1]))


def _kernel() -> Path | None:
    """The newest one in /boot that has its modules."""
    kernels = [
        path for path in Path("/boot").glob("vmlinuz-*") if _modules_of(path).is_dir() and os.access(path, os.R_OK)
    ]
    return max(kernels, key=lambda path: path.stat().st_mtime, default=None)


def _modules_of(kernel: Path) -> Path:
    return Path("/lib/modules") / kernel.name.removeprefix("vmlinuz-")


def _files(names: Sequence[str]) -> list[Path]:
    """The modules' files and those they need, in the order of loading (modules.dep names the last needed first)."""
    kernel = _kernel()
    assert kernel is not None
    folder = _modules_of(kernel)
    needs: dict[str, list[str]] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        needs[file] = others.split()
    by_name = {_module(Path(file).name): file for file in needs}
    order: list[str] = []
    for name in names:
        if _module(name) in by_name:
            order += [*reversed(needs[by_name[_module(name)]]), by_name[_module(name)]]
    return [folder / file for file in dict.fromkeys(order)]


def _module(name: str) -> str:
    """As the kernel calls it; files and people may write a hyphen."""
    return name.partition(".")[0].replace("-", "_")


def _initrd(modules: Sequence[tuple[Path, str]], command: Sequence[str], environment: dict[str, str]) -> bytes:
    """What the kernel starts with: busybox, the modules, and a script that mounts / and runs the command in it."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    quoted = " ".join("'" + part.replace("'", "'\\''") + "'" for part in command)
    # what is written goes to /dev/shm: this very checkout may lie below /tmp, and must not be hidden
    variables = " ".join(f"{name}='{value}'" for name, value in {"TMPDIR": "/dev/shm", **environment}.items())
    mounts = "".join(
        f"mkdir -p /host/{place}\nmount -t {kind} {kind} /host/{place}\n"
        for kind, place in (("proc", "proc"), ("sysfs", "sys"), ("devtmpfs", "dev"), ("tmpfs", "dev/shm"))
    )
    script = (
        "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nexport PATH=/bin\nmount -t proc proc /proc\n"
        + "".join(f"insmod /modules/{number}.ko {given}\n" for number, (_, given) in enumerate(modules))
        + "mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=524288,cache=loose root /host\n"
        + mounts
        + f"PATH=/usr/sbin:/usr/bin:/sbin:/bin {variables} chroot /host {quoted}\n"
        + "echo GUEST EXIT $?\npoweroff -f\n"
    )
    archive = _Cpio()
    for name in ("bin", "dev", "proc", "host", "modules"):
        archive.add(name, 0o40755)
    archive.add("dev/console", 0o20600, device=(5, 1))
    archive.add("bin/busybox", 0o100755, Path(busybox).read_bytes())
    for number, (module, _) in enumerate(modules):
        archive.add(f"modules/{number}.ko", 0o100644, module.read_bytes())
    archive.add("init", 0o100755, script.encode())
    archive.add("TRAILER!!!", 0)
    return bytes(archive.content)


class _Cpio:
    """The kernel's initramfs format (Documentation/driver-api/early-userspace/buffer-format.rst, "newc")."""

    def __init__(self) -> None:
        self.content = bytearray()
        self._inode = 0

    def add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        """One file; ``mode`` with its type."""
        self._inode += 1
        path = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        self.content += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        self._pad()
        self.content += data
        self._pad()

    def _pad(self) -> None:
        self.content += bytes(-len(self.content) % 4)
