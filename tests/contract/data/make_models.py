"""Makes the tiny networks beside this file: ``python tests/contract/data/make_models.py`` (needs TensorFlow).

One untrained classifier of 16x16x3 pictures in 0..1 with four classes and seeded weights, as float32, as int8 and as
int8 with uint8 input and output; and a network whose output has as many rows as its input has bright pixels. A few
kilobytes each, so that tests load real networks without any download.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
SEED = 20261122
SIDE = 16
CLASSES = 4


def pictures(count: int, seed: int) -> np.ndarray:
    """(count, 16, 16, 3) float32 in 0..1: a smooth colour ramp each, so that the classes differ."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE), indexing="ij")
    slope = rng.uniform(-0.5, 0.5, (count, 2, 1, 1, 3))
    base = rng.uniform(0.0, 1.0, (count, 1, 1, 3))
    ramps = base + slope[:, 0] * y[None, :, :, None] + slope[:, 1] * x[None, :, :, None]
    return np.clip(ramps, 0.0, 1.0).astype(np.float32)


def network() -> tf.keras.Model:
    """Convolution, depthwise convolution, pooling, dense, softmax."""
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            layers.Input((SIDE, SIDE, 3), batch_size=1),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.DepthwiseConv2D(3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES),
            layers.Softmax(),
        ]
    )
    rng = np.random.default_rng(SEED)
    model.set_weights([rng.normal(0.0, 0.5, w.shape).astype(np.float32) for w in model.get_weights()])
    # spread the logits, so that most pictures have a clear class and every class has pictures
    logits = tf.keras.Model(model.inputs, model.layers[-2].output)
    values = np.concatenate([logits(p[None], training=False).numpy() for p in pictures(200, SEED)])
    kernel, bias = model.layers[-2].get_weights()
    gain = 4.0 / values.std(axis=0)
    model.layers[-2].set_weights([kernel * gain, (bias - values.mean(axis=0)) * gain])
    return model


def convert(model: tf.keras.Model, dtype: tf.DType | None) -> bytes:
    """``dtype``: of input and output of the int8 network, or None for a float network."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if dtype is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([p[None]] for p in pictures(100, SEED + 1))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = dtype
    return converter.convert()


def of_any_size() -> bytes:
    """Its output: the bright pixels."""

    @tf.function(input_signature=[tf.TensorSpec((1, 4, 4, 3), tf.float32)])
    def bright(pixels: tf.Tensor) -> tf.Tensor:
        rows = tf.reshape(pixels, (-1, 3))
        return tf.boolean_mask(rows, rows[:, 0] > 0.5)

    return tf.lite.TFLiteConverter.from_concrete_functions([bright.get_concrete_function()]).convert()


def of_an_open_batch() -> bytes:
    """Its output: the pixels as rows, whose number is computed from the batch and said to be 1 until it has run."""

    @tf.function(input_signature=[tf.TensorSpec((None, 4, 4, 3), tf.float32)])
    def rows(pixels: tf.Tensor) -> tf.Tensor:
        return tf.reshape(pixels, (tf.shape(pixels)[0], -1, 3))

    return tf.lite.TFLiteConverter.from_concrete_functions([rows.get_concrete_function()]).convert()


def main() -> None:
    """Writes the five files."""
    (HERE / "tiny-open-batch.tflite").write_bytes(of_an_open_batch())
    (HERE / "tiny-any-size.tflite").write_bytes(of_any_size())
    model = network()
    for name, dtype in (("float32", None), ("int8", tf.int8), ("uint8", tf.uint8)):
        data = convert(model, dtype)
        (HERE / f"tiny-{name}.tflite").write_bytes(data)
        print(f"tiny-{name}.tflite: {len(data)} bytes")


if __name__ == "__main__":
    main()
