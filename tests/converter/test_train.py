"""Training: its data, its loop, what is kept of it."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vedette.contract.errors import FaultError, PictureError, UserError
from vedette.contract.manifest import ImageInput
from vedette_converter.distil.classify import CrossEntropy, Distillation, log_probabilities
from vedette_converter.distil.imitate import Imitation
from vedette_converter.pictures import dataset, list_pictures
from vedette_converter.progress import Silent
from vedette_converter.train import data, loop
from vedette_converter.train.answers import ask
from vedette_converter.train.data import Augmentation, Batches, Samples
from vedette_converter.train.normalise import fused_batch_norm
from vedette_converter.train.rounding import rounded_activations
from vedette_converter.train.sparsity import Sparsity, magnitude_mask, zeros

tf = pytest.importorskip("tensorflow", reason="the converter's extra is not installed")
SPEC = ImageInput(height=8, width=8, color="gray", mean=(127.5,), std=(64.0,))
PLAIN = Augmentation(flip=False, shift=0, brightness=0.0)
LABELS = ("dark", "bright")


def folder(root: Path, *, labels: tuple[str, ...] = LABELS, count: int = 3) -> Path:
    for number, label in enumerate(labels):
        (root / label).mkdir(parents=True)
        for n in range(count):
            cv2.imwrite(str(root / label / f"{n}.png"), np.full((8, 8, 3), 40 + 170 * number + n, np.uint8))
    return root


def stripes(count: int = 64, seed: int = 0) -> Samples:
    """Half of them brighter at the left, half at the right."""
    rng = np.random.default_rng(seed)
    ids = np.arange(count, dtype=np.int32) % 2
    ramp = np.linspace(40, 210, 8)
    rows = np.where(ids[:, None] == 0, ramp, ramp[::-1])
    pixels = rows[:, None, :, None] + rng.normal(0, 12, (count, 8, 8, 1))
    return Samples(np.clip(pixels, 0, 255).astype(np.uint8), ids, SPEC, f"stripes {count} {seed}")


def small(seed: int = 1) -> Any:
    import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    x = pixels = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, name="first")(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(pixels, layers.Dense(2, activation="softmax")(layers.Flatten()(x)))


def fit(model: Any, samples: Samples, epochs: int = 3, **options: Any) -> loop.History:
    batches = Batches(samples, 8, PLAIN, 5)
    return loop.fit(
        model, batches, options.pop("loss", CrossEntropy("none")), loop.Schedule(epochs, 0.1, 0.001), name="train",
        progress=Silent(), **options,
    )  # fmt: skip


def right(model: Any, samples: Samples) -> float:
    return float((np.argmax(model(samples.real(samples.pixels)), axis=1) == samples.class_ids).mean())


def test_labels_are_folders_in_the_order_of_the_labels(tmp_path: Path) -> None:
    listed = data.list_labelled(folder(tmp_path), LABELS)
    assert [path.parent.name for path in listed.files] == ["dark"] * 3 + ["bright"] * 3
    samples = data.decode(listed, SPEC)
    assert samples.pixels.shape == (6, 8, 8, 1) and samples.pixels[:, 0, 0, 0].tolist() == [40, 41, 42, 210, 211, 212]
    assert samples.class_ids.tolist() == [0, 0, 0, 1, 1, 1]
    assert samples.real(samples.pixels)[0, 0, 0, 0] == pytest.approx((40 - 127.5) / 64)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("dark", "bright", "grey"), "grey: no folder for a label: expected one folder a label"),
        (("dark",), "bright: a folder that is no label: expected dark"),
    ],
)
def test_folders_that_do_not_fit_the_labels_are_named(tmp_path: Path, labels: tuple[str, ...], expected: str) -> None:
    with pytest.raises(PictureError) as caught:
        data.list_labelled(folder(tmp_path), labels)
    assert expected in caught.value.line()


def test_an_empty_folder_and_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no pictures"):
        data.list_unlabelled(tmp_path)
    with pytest.raises(PictureError, match="folder cannot be read"):
        data.list_labelled(tmp_path / "nowhere", LABELS)


def test_a_picture_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (folder(tmp_path) / "dark" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(PictureError, match=r"gone\.png: cannot be read: found No such file"):
        data.list_labelled(tmp_path, LABELS)
    with pytest.raises(PictureError, match=r"gone\.png: cannot be read"):
        dataset("pictures", list_pictures(tmp_path / "dark"))


def test_pictures_below_count_where_no_label_is_needed(tmp_path: Path) -> None:
    listed = data.list_unlabelled(folder(tmp_path))
    assert len(listed.files) == 6 and len(listed.class_ids) == 0


def test_an_epoch_shows_each_picture_once_and_is_the_same_each_time() -> None:
    samples = stripes(20)
    batches = Batches(samples, 5, Augmentation(flip=True, shift=2, brightness=0.1), 3)
    first, again = list(batches.epoch(4)), list(batches.epoch(4))
    assert batches.steps == len(first) == 4
    for one, other in zip(first, again, strict=True):
        assert all((a == b).all() for a, b in zip(one, other, strict=True))
    assert sorted(np.concatenate([ids for _, ids, _ in first])) == sorted(samples.class_ids)
    assert any((a[0] != b[0]).any() for a, b in zip(first, batches.epoch(5), strict=True))


def test_without_augmentation_a_look_is_the_picture_and_flipping_turns_it() -> None:
    samples = stripes(4)
    everything = np.arange(4)
    assert (Batches(samples, 4, PLAIN, 0).looks(everything, 7) == samples.pixels).all()
    looks = Batches(samples, 4, Augmentation(flip=True, shift=0, brightness=0.0), 0).looks(np.zeros(1, np.intp), 0)
    assert (looks[0] == samples.pixels[0]).all() or (looks[0] == samples.pixels[0, :, ::-1]).all()


def test_a_shift_mirrors_the_edge_into_the_gap() -> None:
    samples = stripes(64)
    looks = Batches(samples, 4, Augmentation(flip=False, shift=2, brightness=0.0), 0).looks(np.arange(64), 0)
    padded = np.pad(samples.pixels, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    for look, wide in zip(looks, padded, strict=True):
        parts = [wide[y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
        assert any((look == part).all() for part in parts)
    assert (looks != samples.pixels).any()


def test_views_repeat_and_bring_their_answers() -> None:
    samples = stripes(12)
    answers = np.arange(2 * 12 * 2, dtype=np.float32).reshape(2, 12, 2)
    batches = Batches(samples, 3, Augmentation(flip=True, shift=1, brightness=0.2), 1, views=2, answers=answers)
    inputs = {float(a[0]): x for xs, _, seen in batches.epoch(1) for x, a in zip(xs, seen, strict=True)}
    later = {float(a[0]): x for xs, _, seen in batches.epoch(3) for x, a in zip(xs, seen, strict=True)}
    assert sorted(inputs) == sorted(answers[1, :, 0])
    assert all((inputs[key] == later[key]).all() for key in inputs)


def test_the_rate_rises_and_falls_along_a_cosine() -> None:
    schedule = loop.Schedule(10, 0.4, 0.0, warm_up=0.2)
    rates = [schedule.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.02) and max(rates) == rates[19] == pytest.approx(0.4)
    assert rates[60] == pytest.approx(0.4 * (0.01 + 0.99 * 0.5)) and rates[99] < 0.01
    assert all(a > b for a, b in itertools.pairwise(rates[20:]))


def test_a_network_learns() -> None:
    samples, model = stripes(), small()
    history = fit(model, samples, epochs=6)
    assert len(history.losses) == 6 and history.losses[-1] < history.losses[0] / 2
    assert right(model, samples) == 1.0
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}


def test_a_window_wider_than_what_it_sees_is_learned_in_float32() -> None:
    """oneDNN writes only part of such a kernel's gradient in bfloat16: the rest is what was in memory."""
    keras = tf.keras
    layers = keras.layers
    inputs = keras.Input((4, 3, 8))
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", name="two-of-three")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same", name="not-strided")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", name="less-than-a-window")(x)
    model = keras.Model(inputs, layers.SeparableConv2D(4, 3, strides=2, padding="same", name="one-pixel")(x))
    with loop.computing_in_bfloat16(model, wanted=True):
        policies = {layer.name: layer.dtype_policy.name for layer in model.layers[1:]}
    assert policies == {
        "two-of-three": "mixed_bfloat16", "not-strided": "mixed_bfloat16", "less-than-a-window": "float32",
        "one-pixel": "float32",
    }  # fmt: skip
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_killed_training_goes_on_after_the_last_whole_epoch(tmp_path: Path, bfloat16: bool) -> None:
    class KilledError(Exception):
        pass

    def kill(epoch: int) -> str:
        if epoch == 3:
            raise KilledError
        return ""

    whole = small()
    fit(whole, stripes(), epochs=4, bfloat16=bfloat16)
    kept = tmp_path / "kept.npz"
    with pytest.raises(KilledError):
        fit(small(), stripes(), epochs=4, bfloat16=bfloat16, checkpoint=kept, on_epoch=kill)
    resumed = small(seed=99)  # whatever the weights were, the checkpoint's count
    epochs: list[int] = []

    def note(epoch: int) -> str:
        epochs.append(epoch)
        return ""

    fit(resumed, stripes(), epochs=4, bfloat16=bfloat16, checkpoint=kept, on_epoch=note)
    assert epochs == [3, 4]
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0.02, atol=0.02 if bfloat16 else 1e-4)
    assert list(tmp_path.iterdir()) == [kept]


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    kept = tmp_path / "kept.npz"
    np.savez(kept, weight_0=np.zeros((1, 2)), losses=np.zeros(1))
    with pytest.raises(UserError, match="the kept state is not of this training"):
        fit(small(), stripes(), checkpoint=kept)
    kept.write_bytes(b"PK\x03\x04 half of it")
    with pytest.raises(UserError, match="the kept state is not of this training"):
        fit(small(), stripes(), checkpoint=kept)


def test_a_loss_that_is_no_number_is_a_fault_with_advice() -> None:
    def broken(class_ids: Any, answers: Any, outputs: Any) -> Any:
        return tf.reduce_sum(outputs) * math.nan

    with pytest.raises(FaultError, match="loss is no number any more") as caught:
        fit(small(), stripes(), loss=broken)
    assert "lower the learning rate" in caught.value.line()


def test_sparsity_rises_along_a_cubic_and_stays() -> None:
    sparsity = Sparsity(0.8, 0.1, 0.6)
    assert [round(sparsity.share(step, 100), 4) for step in (0, 10, 35, 60, 100)] == [0.0, 0.0, 0.7, 0.8, 0.8]


def test_the_smallest_weights_go() -> None:
    mask = magnitude_mask(np.array([[3.0, -1.0], [0.5, -4.0]]), 0.5)
    assert mask.tolist() == [[1.0, 0.0], [0.0, 1.0]] and (magnitude_mask(np.ones(4), 0.0) == 1).all()


def test_a_sparse_training_ends_with_the_share_of_zeros() -> None:
    model = small()
    fit(model, stripes(), epochs=4, sparsity=Sparsity(0.75, 0.0, 0.5))
    assert zeros(model) == pytest.approx(0.75, abs=0.01)
    assert right(model, stripes()) == 1.0


def test_a_student_learns_without_any_label(tmp_path: Path) -> None:
    teacher, labelled = small(), stripes()
    fit(teacher, labelled, epochs=6)
    samples = Samples(labelled.pixels, np.empty(0, np.int32), SPEC, "no labels")
    looks = Batches(samples, 8, PLAIN, 5, views=2)
    answers = ask(teacher, looks, samples, keep=tmp_path / "answers.npz", progress=Silent())
    assert answers.shape == (2, 64, 2)
    student = small(seed=7)
    batches = Batches(samples, 8, PLAIN, 5, views=2, answers=answers)
    loop.fit(student, batches, Distillation("none", 2.0, 0.0), loop.Schedule(6, 0.1, 0.0), name="distil",
             progress=Silent())  # fmt: skip
    assert right(student, labelled) == 1.0


def test_answers_are_asked_for_once(tmp_path: Path) -> None:
    samples, asked = stripes(6), []

    def teacher(inputs: Any, training: bool) -> Any:
        asked.append(inputs.shape)
        return inputs[:, 0, 0, :]

    teacher.layers = []  # type: ignore[attr-defined]
    keep = tmp_path / "answers.npz"
    for views in (1, 2, 2):
        looks = Batches(samples, 6, PLAIN, 5, views=views)
        answers = ask(teacher, looks, samples, keep=keep, progress=Silent())
    assert len(asked) == 2  # traced once for each call that had to ask
    np.testing.assert_allclose(answers[1], samples.real(samples.pixels)[:, 0, 0, :])
    with pytest.raises(UserError, match="kept answers are not of this training"):
        ask(teacher, Batches(stripes(4), 4, PLAIN, 5, views=2), samples, keep=keep, progress=Silent())


@pytest.mark.parametrize(
    ("activation", "make"),
    [("softmax", lambda logits: logits + 3.0), ("none", tf.nn.softmax)],
)
def test_losses_by_hand(activation: Any, make: Callable[[Any], Any]) -> None:
    logits = tf.constant([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    taught = tf.constant([[1.0, 1.0, 0.0], [0.0, 3.0, 0.0]])
    logs = np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(log_probabilities(make(logits), activation), logs, atol=1e-5)
    truth = CrossEntropy(activation)([0, 1], None, make(logits))
    assert float(truth) == pytest.approx(-(logs[0, 0] + logs[1, 1]) / 2, abs=1e-5)

    def softened(values: Any) -> Any:
        exp = np.exp(np.asarray(values) / 2.0)
        return exp / exp.sum(axis=1, keepdims=True)

    expected = -4.0 * (softened(taught) * np.log(softened(logits))).sum(axis=1).mean()
    loss = Distillation(activation, 2.0, 0.0)(None, make(taught), make(logits))
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    both = Distillation(activation, 2.0, 0.25)([0, 1], make(taught), make(logits))
    assert float(both) == pytest.approx(0.75 * expected + 0.25 * float(truth), rel=1e-4)


@pytest.mark.parametrize(("activation", "make"), [("sigmoid", lambda logits: logits), ("own sigmoid", tf.sigmoid)])
def test_each_class_behind_a_sigmoid_is_learned(activation: Any, make: Callable[[Any], Any]) -> None:
    logits = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    taught = np.array([[1.0, 1.0, 0.0], [0.0, 3.0, 0.0]])

    def entropy(truth: Any, values: Any) -> float:
        share = 1 / (1 + np.exp(-values))
        return float(-(truth * np.log(share) + (1 - truth) * np.log(1 - share)).sum(axis=1).mean())

    outputs, answers = (make(tf.constant(values, tf.float32)) for values in (logits, taught))
    hard = entropy(np.eye(3)[:2], logits)
    assert float(CrossEntropy(activation)([0, 1], None, outputs)) == pytest.approx(hard, rel=1e-5)
    smoothed = entropy(np.eye(3)[:2] * 0.7 + 0.1, logits)
    assert float(CrossEntropy(activation, 0.3)([0, 1], None, outputs)) == pytest.approx(smoothed, rel=1e-5)
    soft = 4 * entropy(1 / (1 + np.exp(-taught / 2)), logits / 2)
    assert float(Distillation(activation, 2.0, 0.0)(None, answers, outputs)) == pytest.approx(soft, rel=1e-5)
    both = Distillation(activation, 2.0, 0.25)([0, 1], answers, outputs)
    assert float(both) == pytest.approx(0.75 * soft + 0.25 * hard, rel=1e-5)


def test_numbers_are_imitated() -> None:
    assert float(Imitation()(None, tf.constant([[1.0, 3.0]]), tf.constant([[2.0, 0.0]]))) == pytest.approx(5.0)


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False, "momentum": 0.5}, {"trainable": False}])
def test_fused_normalisation_is_the_same_arithmetic(options: dict[str, Any]) -> None:
    import keras

    rng = np.random.default_rng(3)
    pictures = tf.constant(rng.normal(3, 5, (2, 4, 4, 3)), tf.float32)  # few, so that n and n - 1 are far apart
    found = []
    for fused in (False, True):
        x = keras.Input((4, 4, 3))
        layer = keras.layers.BatchNormalization(**options)
        model = keras.Model(x, layer(x))
        for variable, value in zip(model.trainable_variables, ([1.5, 0.5, -2.0], [0.1, 0.2, 0.3]), strict=False):
            variable.assign(value)

        def step(model: Any = model) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(pictures)
                out = model(pictures, training=True)
                value = tf.reduce_sum(out * tf.cast(tf.reshape(tf.range(tf.size(out)), out.shape), out.dtype))
            return out, tape.gradient(value, [pictures, *(v.value for v in model.trainable_variables)])

        with fused_batch_norm(model) if fused else contextlib.nullcontext():
            assert ("call" in vars(layer)) is fused
            out, slopes = step()
        assert "call" not in vars(layer)
        found.append([out, *slopes, *(variable.value for variable in layer.non_trainable_variables)])
    assert len(found[0]) >= 4
    for one, other in zip(*found, strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_what_the_fused_kernel_does_not_do_is_left_to_keras() -> None:
    import keras

    x = keras.Input((4, 3))
    model = keras.Model(x, keras.layers.BatchNormalization(axis=1)(x))
    with fused_batch_norm(model):
        assert model(np.ones((2, 4, 3), np.float32), training=True).shape == (2, 4, 3)


def test_rounded_activations_are_those_that_integers_will_hold() -> None:
    import keras

    layers = keras.layers
    pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", name="folded")(pixels)
    x = shortcut = layers.ReLU(name="first")(layers.BatchNormalization(name="norm")(x))
    y = layers.BatchNormalization(name="added")(layers.Conv2D(8, 3, padding="same")(x))
    x = layers.ReLU(name="sum")(layers.Add(name="bare")([shortcut, y]))
    model = keras.Model(pixels, layers.Dense(3, name="last")(layers.GlobalAveragePooling2D(name="pool")(x)))
    names = ("folded", "norm", "first", "added", "bare", "sum", "pool", "last")
    seen = keras.Model(pixels, [model.get_layer(name).output for name in names])
    batch = tf.random.stateless_normal((16, 16, 16, 3), [1, 2])

    def distinct() -> dict[str, int]:
        return {
            name: len(np.unique(out)) for name, out in zip(names, seen(batch, training=True), strict=True)
        }  # fmt: skip

    before = distinct()
    with fused_batch_norm(model), rounded_activations(model):
        within = distinct()
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(model(batch, training=True) ** 2)
        slopes = tape.gradient(value, model.trainable_variables)
    assert all(slope is not None for slope in slopes)
    assert float(tf.reduce_max(tf.abs(slopes[0]))) > 0, "what is rounded has a slope still"
    assert {name for name in names if within[name] <= 256 < before[name]} == {"first", "added", "sum"}
    assert min(within["folded"], within["bare"]) > 256, "they never exist in integers"
    assert within["pool"] <= before["pool"] and within["last"] <= before["last"]
    assert distinct() == before and not any("call" in vars(layer) for layer in model.layers)


def test_the_last_epochs_see_rounded_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[int] = []
    real = loop.rounded_activations

    @contextlib.contextmanager
    def noted(model: Any) -> Any:
        entered.append(1)
        with real(model):
            yield

    monkeypatch.setattr(loop, "rounded_activations", noted)
    samples = stripes()
    model = small()
    loop.fit(
        model, Batches(samples, 8, PLAIN, 5), CrossEntropy("none"), loop.Schedule(4, 0.1, 0.001, rounded=0.5),
        name="train", progress=Silent(),
    )  # fmt: skip
    assert len(entered) == 2 and right(model, samples) == 1.0
