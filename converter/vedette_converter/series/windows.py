"""Windows of recordings, cut by the agent's own `WindowBuilder`, and what a training makes of them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from vedette.contract.errors import ReadingsError, UserError
from vedette.contract.manifest import Channel, SeriesInput
from vedette.contract.types import Float32Array, Readings, TensorSpec
from vedette.contract.window import SeriesPreprocessor, WindowBuilder

from ..recipe.series import Jitter, Series
from ..train.data import Augmentation
from .recordings import Recording, digest, read
from .taken import Taken, no_window, rate_of

MAX_BYTES: Final = 2 * 1024**3  # of windows; they are kept in memory
LEAST_STD: Final = 1e-6  # of a channel's mean magnitude: a channel that never changes is divided by 1


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows and where each comes from.

    ``values``: (n, length, channels) float32, in the sensor's units. ``targets``: (n, quantities) float32, in their
    units, or (n, 0). ``recording``: (n,) int32, a position in ``recordings``.
    """

    values: Float32Array
    targets: Float32Array
    recording: NDArray[np.int32]
    recordings: tuple[Recording, ...]
    taken: tuple[Taken, ...] = ()
    """Of each of ``recordings``."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def class_ids(self) -> NDArray[np.int32]:
        """(n,), -1 where the recording carries no label."""
        return np.array([one.class_id for one in self.recordings], np.int32)[self.recording]

    @property
    def groups(self) -> list[str]:
        """Of each window."""
        return [self.recordings[number].group for number in self.recording]

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Windows:
        """Some of them; all recordings stay."""
        return dataclasses.replace(
            self, values=self.values[index], targets=self.targets[index], recording=self.recording[index]
        )

    def draw(self, count: int, seed: int) -> Windows:
        """``count`` of them, or all where there are fewer, in their own order; the same seed, the same choice."""
        if count >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), count, replace=False)))


def cut(
    recordings: Sequence[Recording], spec: SeriesInput, options: Series, *, quantities: Sequence[Channel] = (),
    stride: int | None = None, on_recording: Callable[[], None] = lambda: None,
) -> Windows:  # fmt: skip
    """Reads every recording and cuts it into windows. ``quantities``: columns whose value is a window's target.

    Raises `ReadingsError` for a recording that is shorter than a window or cannot be read, or where all would not fit.
    """
    columns = [channel.name for channel in (*spec.channels, *quantities)]
    wider = msgspec.structs.replace(spec, channels=(*spec.channels, *quantities), mean=(0.0,), std=(1.0,))
    parts: list[Float32Array] = []
    numbers: list[int] = []
    taken: list[Taken] = []
    size = 0
    for number, recording in enumerate(recordings):
        found = read(recording.path, columns, options.time)
        builder = WindowBuilder(wider, stride=stride)
        times_ns = np.zeros(len(found.values), np.int64) if found.times_ns is None else found.times_ns
        made = builder.push(Readings(found.values, times_ns, 0, found.times_ns is not None))
        own = Taken(builder.counts, rate_of(found.times_ns), found.doubt and f"{recording.path}: {found.doubt}")
        if not made:
            raise no_window(recording.path, spec, own)
        values = np.stack([window.values for window in made])
        size += values.nbytes
        if size > MAX_BYTES:
            raise ReadingsError(
                "too many windows to keep in memory", where=recording.path, expected=f"at most {MAX_BYTES // 1024**3} GB",
                fix="a larger stride, or fewer recordings",
            )  # fmt: skip
        taken.append(own)
        parts.append(values)
        numbers += [number] * len(values)
        on_recording()
    everything = np.concatenate(parts)
    channels = len(spec.channels)
    beside = everything[:, :, channels:]
    targets = beside[:, -1] if options.target == "last" else beside.mean(axis=1)
    return Windows(
        np.ascontiguousarray(everything[:, :, :channels]), np.asarray(targets, np.float32), np.array(numbers, np.int32),
        tuple(recordings), tuple(taken),
    )  # fmt: skip


def moments(windows: Windows) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all windows, to six digits: what a manifest can say in print.

    A channel that never changes gets 1 for its deviation.
    """
    values = windows.values.reshape(-1, windows.values.shape[2]).astype(np.float64)
    mean, std = values.mean(axis=0), values.std(axis=0)
    std = np.where(std > LEAST_STD * np.maximum(1.0, np.abs(mean)), std, 1.0)
    return tuple(float(f"{v:.6g}") for v in mean), tuple(float(f"{v:.6g}") for v in std)


def tensors(windows: Windows, spec: SeriesInput, tensor: TensorSpec) -> Float32Array:
    """(n, ...) float32 of the tensor's shape, by the agent's own preprocessing. Raises `ModelError` for another shape."""
    real = TensorSpec(tensor.name, (1, *tensor.shape[1:]), np.dtype(np.float32))
    preprocess = SeriesPreprocessor(spec, real)
    out = np.empty((len(windows), *real.shape[1:]), np.float32)
    for number, values in enumerate(windows.values):
        preprocess(values, out[number : number + 1])
    return out


@dataclass(frozen=True, slots=True)
class WindowSamples:
    """Windows to train on, as the network takes them; see `vedette_converter.train.data.TrainingSamples`.

    ``inputs``: (n, ...) float32. ``targets``: (n, ...) float32 of the network's output, or (n, 0) where labels teach it.
    """

    inputs: Float32Array
    targets: Float32Array
    class_ids: NDArray[np.int32]
    spec: SeriesInput
    sha256: str
    jitter: Jitter

    def __len__(self) -> int:
        return len(self.inputs)

    def real(self, inputs: Float32Array) -> Float32Array:
        """As they are: normalised once, when they were made."""
        return inputs

    def batches(
        self, size: int, augmentation: Augmentation | None, seed: int, *, views: int = 0,
        answers: NDArray[np.float32] | None = None,
    ) -> WindowBatches:  # fmt: skip
        """With this recipe's jitter; without an augmentation, as they are."""
        jitter = self.jitter if augmentation is not None else Jitter()
        return WindowBatches(self, size, jitter, seed, views=views, answers=answers)


def training_samples(
    windows: Windows, spec: SeriesInput, tensor: TensorSpec, targets: Float32Array, jitter: Jitter
) -> WindowSamples:
    """``targets``: (n, ...) of the network's output, or (n, 0). Classes are taken from the recordings' labels."""
    inputs = tensors(windows, spec, tensor)
    ids = windows.class_ids
    labelled = ids if len(ids) and ids.min() >= 0 else np.empty(0, np.int32)
    made = hashlib.sha256(digest(windows.recordings).encode() + labelled.tobytes() + targets.tobytes())
    made.update(msgspec.json.encode((spec, jitter)) + str(inputs.shape).encode() + np.ascontiguousarray(inputs).data)
    return WindowSamples(inputs, targets, labelled, spec, made.hexdigest(), jitter)


class WindowBatches:
    """Endless epochs over `WindowSamples`; see `vedette_converter.train.data.Batches`."""

    def __init__(
        self, samples: WindowSamples, size: int, jitter: Jitter, seed: int, *, views: int = 0,
        answers: NDArray[np.float32] | None = None,
    ) -> None:  # fmt: skip
        """``answers``: (views, n, ...), what a teacher says of each look of each window."""
        self.samples = samples
        self.size = min(size, len(samples))
        self.views = views
        self._jitter = jitter
        self._seed = seed
        self._answers = answers

    @property
    def steps(self) -> int:
        """Batches an epoch; what is left over waits for the next one."""
        return len(self.samples) // self.size

    def epoch(self, number: int) -> Iterator[tuple[Float32Array, NDArray[np.int32], NDArray[np.float32]]]:
        """(inputs as the network takes them, class ids or empty, answers, targets or empty), batch by batch."""
        order = np.random.default_rng([self._seed, 0, number]).permutation(len(self.samples))
        view = number % self.views if self.views else number
        samples = self.samples
        for step in range(self.steps):
            index = order[step * self.size : (step + 1) * self.size]
            ids = samples.class_ids[index] if len(samples.class_ids) else samples.class_ids
            answers = self._answers[view, index] if self._answers is not None else samples.targets[index]
            yield self.looks(index, view), ids, answers

    def looks(self, index: NDArray[np.intp], view: int) -> Float32Array:
        """Some windows as they look in one view: (n, ...) float32. A window looks the same in any company."""
        inputs = self.samples.inputs[index]
        jitter = self._jitter
        if jitter.noise or jitter.scale:
            seeds = [np.random.default_rng([self._seed, 1, view, int(number)]) for number in index]
            one = (1,) * (inputs.ndim - 1)
            if jitter.scale:
                factors = np.array([rng.uniform(-1.0, 1.0) for rng in seeds], np.float32)
                inputs = inputs * (1 + np.float32(jitter.scale) * factors.reshape(-1, *one))
            if jitter.noise:
                noise = np.stack([rng.standard_normal(inputs.shape[1:], np.float32) for rng in seeds])
                inputs = inputs + np.float32(jitter.noise) * noise
        return np.asarray(inputs, np.float32)


def split(
    recordings: Sequence[Recording], share: float, seed: int, where: object
) -> tuple[list[Recording], list[Recording]]:
    """(kept, held back): whole groups, drawn by chance until their share of the recordings is reached.

    Raises `UserError` where one of the two would be empty.
    """
    groups = sorted({one.group for one in recordings})
    if len(groups) < 2:
        raise UserError(
            "recordings are held back from training by groups", where=where, expected="two groups at least",
            found=f"{len(groups)}", fix="more recordings, or another [series] group",
        )  # fmt: skip
    held: set[str] = set()
    for number in np.random.default_rng(seed).permutation(len(groups)):
        count = sum(one.group in held for one in recordings)
        if (held and count >= share * len(recordings)) or len(held) == len(groups) - 1:
            break
        held.add(groups[number])
    return [one for one in recordings if one.group not in held], [one for one in recordings if one.group in held]
