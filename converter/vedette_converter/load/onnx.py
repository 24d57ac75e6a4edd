"""ONNX networks, through onnx2tf in an environment of its own: it pins versions that clash with the converter's.

Its result is believed only after the flatbuffer gave ONNX Runtime's outputs for the same input.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from vedette.contract.errors import MissingPackageError, ModelError
from vedette.contract.types import Tensor

from ..progress import Progress, Silent
from ..recipe.sources import OnnxSource
from ..source import SourceFiles
from . import tflite
from .network import Network
from .shapes import TO_CHANNELS_FIRST, TO_CHANNELS_LAST, Fed, Shape, fix_shape, only_given

VARIABLE: Final = "VEDETTE_ONNX2TF"
PINNED: Final = "2.6.9"  # writes the flatbuffer itself, without TensorFlow, 0.6 GB; Python 3.12 on
TIMEOUT_S: Final = 900.0  # bounds one conversion
MAX_ERROR: Final = 1e-3  # of the largest output, between ONNX Runtime and the flatbuffer
_FLOAT: Final = "float32"
_CHILD: Final = Path(__file__).with_name("_onnx_child.py")
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")


def load(source: OnnxSource, files: SourceFiles, input_shape: Shape | None) -> Network:
    """The network in the file, as a flatbuffer. A picture's input is NHWC, whatever it is in the file.

    Raises `MissingPackageError` where there is no onnx2tf, `ModelError` where the file is no ONNX network, its shapes or
    dtypes cannot be converted, or what onnx2tf made of it computes something else.
    """
    where = files.where
    python = find_environment()
    with tempfile.TemporaryDirectory(prefix="vedette-onnx-") as name:
        folder = Path(name)
        path = folder / "network.onnx"
        path.write_bytes(files.only)
        if source.outputs is not None:
            wanted, whole, path = folder / "tensors.json", path, folder / "cut.onnx"
            wanted.write_text(json.dumps(source.outputs))
            arguments = ["cut", str(whole), str(wanted), str(path)]
            _ask(python, arguments, folder, where, "the network cannot be cut at these outputs")
        described = _describe(python, path, where)
        names = [entry["name"] for entry in described["inputs"]]
        given = only_given(names, input_shape, where)
        fed = []
        for entry in described["inputs"]:
            if entry["dtype"] != _FLOAT:
                raise ModelError(f"input {entry['name']}", where=where, expected=_FLOAT, found=entry["dtype"])
            fed.append(fix_shape(entry["name"], entry["shape"], given, where))
        opened = any(None in (entry["shape"] or [None, None])[1:] for entry in described["inputs"])
        if opened or source.outputs is not None:
            # onnx2tf's own option sets what a network says of its input, not what follows from it
            path = _fix(python, path, {name: how.inner for name, how in zip(names, fed, strict=True)}, where)
        samples = [np.random.default_rng(1).normal(size=how.shape).astype(np.float32) for how in fed]
        expected = _reference(python, path, names, fed, samples, where)  # before onnxsim rewrites it
        flatbuffer = _convert(python, path, names, fed, where)
    worst = float("inf")
    for network in _candidates(tflite.from_flatbuffer(flatbuffer, where, fixed=True), fed, where):
        worst = min(worst, _difference(expected, network.run(*samples)))
        if worst <= MAX_ERROR:
            return network
    raise ModelError(
        "onnx2tf made another network of it", where=where,
        expected=f"ONNX Runtime's outputs within {MAX_ERROR:g} of the largest",
        found="outputs of other shapes" if np.isinf(worst) else f"{worst:.2g}",
        fix="export the network as a SavedModel instead",
    )  # fmt: skip


def find_environment() -> Path:
    """The interpreter that onnx2tf is installed for: ``VEDETTE_ONNX2TF``, else the one `make_environment` makes.

    Raises `MissingPackageError` with the command that makes one.
    """
    stated = os.environ.get(VARIABLE)
    python = Path(stated) if stated else environment_folder() / "bin" / "python"
    if python.is_dir():
        python = python / "bin" / "python"
    if _has_onnx2tf(python):
        return python
    folder = environment_folder()
    raise MissingPackageError(
        "onnx2tf is needed to read ONNX, in an environment of its own", where=VARIABLE if stated else "",
        expected=f"an interpreter with onnx2tf at {python}",
        fix=f"{_interpreter() or 'python3.12'} -m venv {folder} && {folder}/bin/pip install onnx2tf=={PINNED}",
    )  # fmt: skip


def environment_folder() -> Path:
    """Where `make_environment` puts it: ``$XDG_CACHE_HOME/vedette/onnx2tf``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "vedette" / "onnx2tf"


def make_environment(progress: Progress | None = None) -> Path:
    """Makes the environment where it is not there yet, with pip, some minutes and 0.6 GB. Gives its interpreter.

    Raises `MissingPackageError` where pip fails; nothing half made is left behind.
    """
    progress = progress or Silent()
    folder = environment_folder()
    python = folder / "bin" / "python"
    if _has_onnx2tf(python):
        return python
    newest = _interpreter()
    if newest is None:
        raise MissingPackageError(
            "no Python for onnx2tf's environment", expected="python3.12 or python3.13", found=sys.version.split()[0],
            fix=f"install one of them, or let {VARIABLE} name an interpreter that has onnx2tf=={PINNED}",
        )  # fmt: skip
    step = progress.begin("onnx2tf's environment", 2)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _run_noting(progress, [newest, "-m", "venv", "--clear", str(folder)])
        step()
        command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-compile"]
        _run_noting(progress, [*command, f"onnx2tf=={PINNED}"])
        step()
    except (OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        found = error.output if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise MissingPackageError(
            "onnx2tf's environment cannot be made", where=folder, found=found,
            fix=f"make one yourself and let {VARIABLE} name its interpreter",
        ) from None  # fmt: skip
    return python


def _run_noting(progress: Progress, command: Sequence[str]) -> None:
    last = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_environment()
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if text := line.strip():
                if not text.startswith("WARNING"):
                    last = text
                progress.note(text.split(" (")[0][:60])
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, list(command), last)


def _interpreter() -> str | None:
    """The interpreter to make the environment with: this one where it is new enough, else one on the PATH."""
    if sys.version_info >= (3, 12):
        return sys.executable
    names = ("python3.12", "python3.13")
    return next((n for n in names if shutil.which(n) is not None and _answers(n, "import venv, ensurepip")), None)


def _has_onnx2tf(python: Path) -> bool:
    code = "import importlib.util as u, sys; sys.exit(not (u.find_spec('onnx2tf') and u.find_spec('onnxruntime')))"
    return python.is_file() and _answers(str(python), code)


def _answers(python: str, code: str) -> bool:
    try:
        return (
            subprocess.run([python, "-c", code], capture_output=True, env=_environment(), check=False).returncode == 0
        )
    except OSError:
        return False


def _environment() -> dict[str, str]:
    """This process's, without what points a child to this process's packages."""
    apart = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {**{k: v for k, v in os.environ.items() if k not in apart}, "TF_CPP_MIN_LOG_LEVEL": "3"}


def _child(command: Sequence[str], folder: Path) -> tuple[int, str]:
    """Exit code and output of a child. Raises `subprocess.TimeoutExpired`.

    ``command``: an interpreter first, whose folder is searched for programs: onnx2tf calls ``onnxsim`` by its name, and goes
    on without what that computes beforehand where there is none.
    """
    environment = _environment()
    environment["PATH"] = os.pathsep.join([str(Path(command[0]).parent), environment.get("PATH", os.defpath)])
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder,
        env=environment, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    return done.returncode, _COLOURS.sub("", done.stdout.decode("utf-8", "replace"))


def _ask(python: Path, arguments: Sequence[str], folder: Path, where: str, problem: str) -> None:
    # -I: a script's own folder is the first that is searched, and this one has an onnx.py
    code, output = _child([str(python), "-I", str(_CHILD), *arguments], folder)
    if code:
        lines = [line for line in output.splitlines() if line.strip()]
        raise ModelError(problem, where=where, found=lines[-1][:400] if lines else f"exit code {code}")


def _describe(python: Path, path: Path, where: str) -> dict[str, Any]:
    answer = path.with_name("described.json")
    _ask(python, ["describe", str(path), str(answer)], path.parent, where, "no ONNX network")
    described: dict[str, Any] = json.loads(answer.read_text())
    if not described["inputs"] or not described["outputs"]:
        raise ModelError("no ONNX network", where=where, expected="inputs and outputs", found="none")
    if described["external"]:
        raise ModelError(
            "weights in a file of their own", where=where, expected="one file", found=described["external"][0],
            fix="save it with its weights inside",
        )  # fmt: skip
    if described["bad"]:
        raise ModelError(
            "weights that are no numbers", where=f"{where}: {described['bad'][0]}", expected="finite values",
            found="NaN or infinity", fix="train again from an earlier checkpoint",
        )  # fmt: skip
    return described


def _fix(python: Path, path: Path, shapes: Mapping[str, Shape], where: str) -> Path:
    wanted, fixed = path.with_name("shapes.json"), path.with_name("fixed.onnx")
    wanted.write_text(json.dumps(shapes))
    arguments = ["fix", str(path), str(wanted), str(fixed)]
    _ask(python, arguments, path.parent, where, "the network does not take these shapes")
    return fixed


def _convert(python: Path, path: Path, names: Sequence[str], fed: Sequence[Fed], where: str) -> bytes:
    out = path.with_name("out")
    shapes = [f"{name}:{','.join(map(str, how.inner))}" for name, how in zip(names, fed, strict=True)]
    command = [str(python), "-m", "onnx2tf", "-i", str(path), "-o", str(out), "-ois", *shapes, "-coion", "-n"]
    try:
        code, output = _child(command, path.parent)
    except subprocess.TimeoutExpired:
        raise ModelError("onnx2tf does not finish", where=where, expected=f"at most {TIMEOUT_S:g} s") from None
    made = sorted(out.glob("*_float32.tflite"))
    if code or not made:
        raise ModelError(
            "onnx2tf cannot convert it", where=where, found=_complaint(output) or f"exit code {code}",
            fix="export the network as a SavedModel instead",
        )  # fmt: skip
    return made[0].read_bytes()


def _complaint(output: str) -> str:
    """The line of onnx2tf's output that says most: the exception at a traceback's end, else its first ERROR."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[A-Za-z_.]*(Error|Exception)\b.*:", line) and "ERROR:" not in line]
    errors = [line.split("ERROR:", 1)[1].strip() for line in lines if "ERROR:" in line]
    found = [*raised, *[line for line in errors if "trace log" not in line]]
    return found[0][:400] if found else ""


def _reference(
    python: Path, path: Path, names: Sequence[str], fed: Sequence[Fed], samples: Sequence[Tensor], where: str
) -> list[Tensor]:
    """ONNX Runtime's outputs for these inputs."""
    inputs, outputs = path.with_name("inputs.npz"), path.with_name("outputs.npz")
    inner = [
        np.ascontiguousarray(x.transpose(TO_CHANNELS_FIRST)) if how.channels_first else x
        for x, how in zip(samples, fed, strict=True)
    ]
    arrays: dict[str, Any] = {f"x{number}": x for number, x in enumerate(inner)}
    np.savez(inputs, **arrays)
    arguments = ["run", str(path), str(inputs), str(outputs)]
    _ask(python, arguments, path.parent, where, "ONNX Runtime cannot run it")
    with np.load(outputs, allow_pickle=False) as results:
        return [results[f"y{number}"] for number in range(len(results.files))]


def _candidates(network: Network, fed: Sequence[Fed], where: str) -> Iterator[Network]:
    """Ways to feed what onnx2tf made with the shapes that were promised: it takes every input for channels first."""
    if tuple(spec.shape for spec in network.inputs) == tuple(how.shape for how in fed):
        yield network
    if len(fed) != 1 or len(fed[0].shape) < 3:
        return
    shape = fed[0].shape
    order = (0, *range(2, len(shape)), 1)
    if network.input.shape == tuple(shape[axis] for axis in order):
        yield tflite.with_transposed_input(network, shape, order, where)


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest, as a share of the largest output; infinity where the shapes differ by more than NCHW and NHWC."""
    if len(expected) != len(found):
        return float("inf")
    worst = 0.0
    for want, have in zip(expected, found, strict=True):
        ways = [want]
        if want.ndim >= 3:
            ways.append(want.transpose(TO_CHANNELS_LAST if want.ndim == 4 else (0, *range(2, want.ndim), 1)))
        errors = [float(np.abs(way - have).max()) for way in ways if way.shape == have.shape]
        if not errors:
            return float("inf")
        worst = max(worst, min(errors) / max(1e-6, float(np.abs(want).max())))
    return worst
