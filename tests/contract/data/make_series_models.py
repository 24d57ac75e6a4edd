"""Makes the networks ``series-*.tflite`` beside this file, of windows of readings (needs TensorFlow)::

    PYTHONPATH=tests python tests/contract/data/make_series_models.py

Three of them, as float32 and as int8, a few kilobytes each. Their weights are worked out, not trained: a classifier of
three activities (random features, least squares), an autoencoder of walking (its principal components) and two
quantities of a window (least squares).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from signals import CHANNELS, CLASSES, LENGTH, OUTPUTS, normalised, quantities, windows

HERE = Path(__file__).parent
SEED = 20261126
SIZE = LENGTH * len(CHANNELS)
FEATURES = 24
COMPONENTS = 3


def fit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of ``y = x kernel + bias`` with the least squared error, a little damped."""
    rows = np.hstack([x, np.ones((len(x), 1))])
    solved = np.linalg.solve(rows.T @ rows + 0.1 * np.eye(rows.shape[1]), rows.T @ y)
    return solved[:-1].astype(np.float32), solved[-1].astype(np.float32)


def dense(units: int, kernel: np.ndarray, bias: np.ndarray, **options: object) -> tf.keras.layers.Layer:
    """A dense layer with these weights."""
    constants = tf.keras.initializers.Constant
    return tf.keras.layers.Dense(
        units, kernel_initializer=constants(kernel), bias_initializer=constants(bias), **options
    )


def model(*layers: tf.keras.layers.Layer) -> tf.keras.Model:
    """Of one window, flattened."""
    start = [tf.keras.layers.Input((LENGTH, len(CHANNELS)), batch_size=1), tf.keras.layers.Flatten()]
    return tf.keras.Sequential([*start, *layers])


def classifier() -> tf.keras.Model:
    """Softmax over the three activities."""
    rng = np.random.default_rng(SEED)
    values, ids = windows(600, SEED)
    x = normalised(values).reshape(-1, SIZE)
    kernel, bias = rng.normal(0.0, 0.3, (SIZE, FEATURES)), rng.normal(0.0, 0.5, FEATURES)
    features = np.maximum(x @ kernel + bias, 0.0)
    return model(
        dense(FEATURES, kernel, bias, activation="relu"),
        dense(len(CLASSES), *fit(features, 8.0 * np.eye(len(CLASSES))[ids] - 4.0)),
        tf.keras.layers.Softmax(),
    )


def autoencoder() -> tf.keras.Model:
    """The window again, through the principal components of walking."""
    x = normalised(windows(600, SEED, kinds=(1,))[0]).reshape(-1, SIZE).astype(np.float64)
    mean = x.mean(axis=0)
    axes = np.linalg.svd(x - mean, full_matrices=False)[2][:COMPONENTS].T
    return model(
        dense(COMPONENTS, axes, -mean @ axes),
        dense(SIZE, axes.T, mean),
        tf.keras.layers.Reshape((LENGTH, len(CHANNELS))),
    )


def estimator() -> tf.keras.Model:
    """Mean of y and slope of x, before the manifest's scale and offset."""
    values = windows(600, SEED)[0]
    output = OUTPUTS["regress"]
    target = (quantities(values) - output.offset) / output.scale
    return model(dense(2, *fit(normalised(values).reshape(-1, SIZE), target)))


def convert(network: tf.keras.Model, quantised: bool) -> bytes:
    """With int8 input and output where it is quantised."""
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    if quantised:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([w[None]] for w in normalised(windows(200, SEED + 1)[0]))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def main() -> None:
    """Writes the six files."""
    for name, network in (("classify", classifier()), ("anomaly", autoencoder()), ("regress", estimator())):
        for kind in ("float32", "int8"):
            data = convert(network, kind == "int8")
            (HERE / f"series-{name}-{kind}.tflite").write_bytes(data)
            print(f"series-{name}-{kind}.tflite: {len(data)} bytes")


if __name__ == "__main__":
    main()
