"""TensorFlow.js's fused nodes compute what the ops do that were fused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vedette.contract.errors import ModelError
from vedette_converter import quantise
from vedette_converter.load import Network
from vedette_converter.load.graph import as_network
from vedette_converter.load.shapes import Fed
from vedette_converter.load.unfused import take_apart
from vedette_converter.quantise.graph import read_graph

X = np.random.default_rng(1).normal(size=(1, 6, 6, 4)).astype(np.float32)


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def fused(tf: Any, op: str, kernel: np.ndarray, kinds: list[str], x: np.ndarray = X) -> Any:
    """A GraphDef of one such node, ``y``, as TensorFlow.js's converter writes it."""
    with tf.Graph().as_default() as graph:
        tf.compat.v1.placeholder(tf.float32, x.shape, "x")
        tf.constant(kernel, name="kernel")
        tf.constant(weights(4), name="bias")
        tf.constant(weights(1, 1, 4), name="alpha")
    definition = graph.as_graph_def()
    inputs = ["x", "kernel", "bias"] + ["alpha"] * ("Prelu" in kinds)
    node = definition.node.add(name="y", op=op, input=inputs)
    node.attr["T"].type = tf.float32.as_datatype_enum
    node.attr["fused_ops"].list.s.extend(kind.encode() for kind in kinds)
    node.attr["num_args"].i = len(inputs) - 2
    node.attr["leakyrelu_alpha"].f = 0.3
    if op != "_FusedMatMul":
        node.attr["strides"].list.i.extend([1, 2, 2, 1])
        node.attr["dilations"].list.i.extend([1, 1, 1, 1])
        node.attr["padding"].s = b"SAME"
        node.attr["data_format"].s = b"NHWC"
    return definition


def network_of(definition: Any, x: np.ndarray = X) -> Network:
    take_apart(definition, "model.json")
    return as_network(definition, {"x": ("x", Fed(x.shape))}, [("y", "y")], "model.json")


@pytest.mark.parametrize("kind", ["", "Relu", "Relu6", "Elu", "Sigmoid", "Tanh", "LeakyRelu", "Prelu"])
@pytest.mark.parametrize("op", ["_FusedConv2D", "FusedDepthwiseConv2dNative"])
def test_a_convolution_with_its_bias_and_activation(tf: Any, op: str, kind: str) -> None:
    depthwise = op != "_FusedConv2D"
    kernel = weights(3, 3, 4, 1) if depthwise else weights(3, 3, 4, 4)
    plain = (tf.nn.depthwise_conv2d if depthwise else tf.nn.conv2d)(X, kernel, [1, 2, 2, 1], "SAME") + weights(4)
    alpha = weights(1, 1, 4) if kind == "Prelu" else 0.3
    act = {"": tf.identity, "LeakyRelu": lambda v: tf.where(v < 0, alpha * v, v), "Relu6": tf.nn.relu6}
    act["Prelu"] = act["LeakyRelu"]
    wanted = act.get(kind, getattr(tf.nn, kind.lower(), None))(plain)
    network = network_of(fused(tf, op, kernel, ["BiasAdd", *([kind] if kind else [])]))
    np.testing.assert_allclose(network.run(X)[0], wanted, atol=1e-5)
    ops = [found.name for found in read_graph(quantise.to_float32(network)).ops]
    assert ops[0] == ("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D") and len(ops) <= 2, "and fused again"
    if kind == "Prelu":
        assert ops[1] == "PRELU"


def test_a_matrix_product(tf: Any) -> None:
    x, kernel = weights(1, 5), weights(5, 4)
    network = network_of(fused(tf, "_FusedMatMul", kernel, ["BiasAdd", "Relu"], x), x)
    np.testing.assert_allclose(network.run(x)[0], np.maximum(x @ kernel + weights(4), 0), atol=1e-5)


def test_a_prelu_by_itself(tf: Any) -> None:
    definition = fused(tf, "Prelu", weights(1), [])
    definition.node[-1].input[:] = ["x", "alpha"]
    wanted = np.where(X < 0, X * weights(1, 1, 4), X)
    np.testing.assert_allclose(network_of(definition).run(X)[0], wanted, atol=1e-6)


def test_what_cannot_be_taken_apart_is_named(tf: Any) -> None:
    definition = fused(tf, "_FusedConv2D", weights(3, 3, 4, 4), ["FusedBatchNorm"])
    with pytest.raises(ModelError, match=r"node y: expected BiasAdd, .*found FusedBatchNorm fused into _FusedConv2D"):
        take_apart(definition, "model.json")
    for kinds in (["BiasAdd", "Prelu"], ["BiasAdd"], []):
        definition = fused(tf, "_FusedConv2D", weights(3, 3, 4, 4), kinds)
        del definition.node[-1].input[len(kinds) + 1 :]
        with pytest.raises(ModelError, match="node y: expected the inputs of a _FusedConv2D, found"):
            take_apart(definition, "model.json")
