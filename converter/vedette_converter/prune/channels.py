"""A plan applied: a smaller network, or the same network with those channels at zero.

The two give the same outputs (the tests prove it for every supported pattern): a channel that is zero wherever it goes
adds nothing to anything that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vedette.contract.errors import ModelError, UserError

from .calls import Call, load_keras
from .graph import ChannelGraph, analyse
from .planning import Plan
from .rule import IntArray, Shrunk
from .rules import kind


def apply(model: Any, plan: Plan) -> Any:
    """A new functional network without the channels that the plan removes, with the weights of those that stay.

    Layers keep their names, types and settings; nested networks are unfolded; the given network is left as it is.
    Optimiser, loss and metrics are not carried: compile it anew. Raises `UserError` where the plan was made for another
    network, `ModelError` where a layer cannot be rebuilt from its config.
    """
    graph = analyse(model)
    dead = graph.dead(_checked(graph, plan))
    shrunk = _shrunk(graph, dead)

    def build(call: Call) -> Any:
        return _rebuilt(call, shrunk[call.name].config)

    def settle(name: str, operation: Any, original: Any) -> None:
        _set_weights(operation, original, name, shrunk[name].weights)

    return _network(graph, build, settle, lambda call, number, tensor: tensor)


def masked(model: Any, plan: Plan) -> Any:
    """A new network of the original's size, in which every tensor is zero at the channels that the plan removes.

    Zero behind *each* operation, not behind the convolutions alone: a bias, a batch norm's beta or an activation with
    f(0) != 0 would fill the channel again. The masks are Rescaling layers of the name ``mask_N``. Raises like `apply`.
    """
    keras = load_keras()
    graph = analyse(model)
    dead = graph.dead(_checked(graph, plan))
    names = set(graph.calls.operations)

    def build(call: Call) -> Any:
        return _rebuilt(call, {})

    def settle(name: str, operation: Any, original: Any) -> None:
        _set_weights(operation, original, name, {})

    def mask(call: Call, number: int, tensor: Any) -> Any:
        channels = graph.channels[number]
        if channels is None:
            return tensor
        alive = graph.alive(dead, number)
        if len(alive) == len(channels):
            return tensor
        scale = np.zeros(len(channels))
        scale[alive] = 1.0
        name = f"mask_{number}"
        while name in names:
            name += "_"
        return keras.layers.Rescaling(scale.tolist(), name=name, dtype=graph.calls.dtypes[number])(tensor)

    return _network(graph, build, settle, mask)


def _checked(graph: ChannelGraph, plan: Plan) -> Mapping[str, frozenset[int]]:
    expected = [(cut.group, cut.layers, cut.size) for cut in plan.cuts]
    found = [(group.name, group.layers, group.size) for group in graph.groups]
    if expected != found:
        differing = next((a for a, b in zip(expected, found, strict=False) if a != b), None)
        raise UserError(
            "the plan was made for another network", where=graph.calls.model.name,
            expected=f"{differing[2]} units in {differing[0]}" if differing else f"{len(expected)} groups",
            found=f"{len(found)} groups" if differing is None else "another", fix="plan it anew",
        )  # fmt: skip
    return plan.removed


def _shrunk(graph: ChannelGraph, dead: IntArray) -> dict[str, Shrunk]:
    """Once for each operation: its calls share their channels where it holds any."""
    changes: dict[str, Shrunk] = {}
    for call, rule in zip(graph.calls.calls, graph.rules, strict=True):
        if call.name in changes:
            continue
        if rule is None:
            changes[call.name] = Shrunk()
            continue
        taken, left = graph.alive(dead, call.inputs[0]), graph.alive(dead, call.outputs[0])
        before = [graph.channels[number] for number in (call.inputs[0], call.outputs[0])]
        if all(c is not None and len(c) == len(kept) for c, kept in zip(before, (taken, left), strict=True)):
            changes[call.name] = Shrunk()
            continue
        weights = {weight.name: weight.numpy() for weight in getattr(call.operation, "weights", [])}
        changes[call.name] = rule.shrink(call.operation, weights, taken, left)
    return changes


def _rebuilt(call: Call, changes: Mapping[str, Any]) -> Any:
    operation = call.operation
    try:
        if kind(operation) == "Lambda":  # its config holds byte code, which Keras rightly does not load unasked
            return type(operation)(operation.function, name=call.name, arguments=operation.arguments)
        config = {**operation.get_config(), "name": call.name, **changes}
        activation = getattr(operation, "activation", None)
        if "activation" in config and callable(activation) and not isinstance(activation, load_keras().Layer):
            config["activation"] = activation  # itself, for Keras finds a user's function by no name
        return type(operation).from_config(config)
    except (NotImplementedError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(
            f"layer {call.name} ({kind(operation)}) cannot be rebuilt from its config",
            found=" ".join(str(error).split())[:300] or type(error).__name__, fix="give it get_config() and from_config()",
        ) from None  # fmt: skip


def _set_weights(operation: Any, original: Any, name: str, sliced: Mapping[str, npt.NDArray[Any]]) -> None:
    weights = getattr(original, "weights", [])
    if weights:
        new = [sliced.get(weight.name) if sliced else None for weight in weights]
        values = [weight.numpy() if value is None else value for weight, value in zip(weights, new, strict=True)]
        try:
            operation.set_weights(values)
        except ValueError as error:
            raise ModelError(
                f"layer {name} ({kind(original)}) has other weights after its config was loaded",
                found=" ".join(str(error).split())[:300],
            ) from None  # fmt: skip
    finalize = getattr(operation, "finalize_state", None)
    if finalize is not None:  # Normalization: what it adapted to is derived from its weights
        finalize()


def _network(
    graph: ChannelGraph,
    build: Callable[[Call], Any],
    settle: Callable[[str, Any, Any], None],
    behind: Callable[[Call, int, Any], Any],
) -> Any:
    """Runs the calls again on new inputs. ``behind`` is given each new tensor with its number."""
    keras = load_keras()
    calls = graph.calls
    values: dict[int, Any] = {}
    for number, name in zip(calls.inputs, calls.input_names, strict=True):
        values[number] = keras.Input(batch_shape=calls.shapes[number], dtype=calls.dtypes[number], name=name)
    new: dict[str, Any] = {}
    for call in calls.calls:
        operation = new.get(call.name)
        if operation is None:
            operation = new[call.name] = build(call)
        args, kwargs = call.fill_in(values)
        results = keras.tree.flatten(operation(*args, **kwargs))
        values.update((n, behind(call, n, result)) for n, result in zip(call.outputs, results, strict=True))
    for name, operation in new.items():
        settle(name, operation, calls.operations[name])
    model = calls.model
    sequential = isinstance(model, keras.Sequential)
    inputs = [values[number] for number in calls.inputs]
    outputs = [values[number] for number in calls.outputs]
    if not sequential:
        makers = {number: call.name for call in calls.calls for number in call.outputs}
        made_by = [makers.get(number, "") for number in calls.outputs]
        outputs = _named(outputs, made_by, model.output_names, {*new, *calls.input_names})
    return keras.Model(
        inputs[0] if sequential else keras.tree.pack_sequence_as(model.input, inputs),
        outputs[0] if sequential else keras.tree.pack_sequence_as(model.output, outputs),
        name=model.name,
    )


def _named(outputs: Sequence[Any], makers: Sequence[str], names: Sequence[str], taken: set[str]) -> list[Any]:
    """An output that a nested network makes goes by that network's name, so a layer of this name stands behind it."""
    keras = load_keras()
    result = []
    for tensor, maker, name in zip(outputs, makers, names, strict=True):
        if name not in taken and maker != name:
            taken = taken | {name}
            tensor = keras.layers.Identity(name=name, dtype=tensor.dtype)(tensor)
        result.append(tensor)
    return result
