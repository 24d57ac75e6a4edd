"""A Keras network as a flat list of calls: the one file that knows how Keras 3 keeps its graph.

Nested networks are unfolded, so a backbone with a head of its own is one graph. A layer that is called twice, or that
belongs to a nested network called twice, is one operation with two calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vedette.contract.errors import ModelError

from ..tensorflow import load_tensorflow


def load_keras() -> Any:
    """The module ``keras``, version 3. Raises `MissingPackageError`."""
    load_tensorflow()  # sets up the process, and says how to install what is missing
    import keras

    return keras


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One use of one operation (a layer, or one of ``keras.ops``)."""

    index: int
    """Its place in `Calls.calls`, which is topological."""
    operation: Any
    name: str
    """Of the operation, unique in the network."""
    arguments: Any
    """Keras's symbolic arguments: with KerasTensors where `fill_in` puts values."""
    scope: Mapping[int, int]
    """id(KerasTensor) -> number of the value, for the arguments."""
    inputs: tuple[int, ...]
    """Numbers of the values it takes, as they stand in the arguments."""
    outputs: tuple[int, ...]

    def fill_in(self, values: Mapping[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments and keyword arguments with ``values``, by number, in the place of tensors."""
        args, kwargs = self.arguments.fill_in({tensor: values[number] for tensor, number in self.scope.items()})
        return tuple(args), dict(kwargs)

    def constants(self) -> list[Any]:
        """What is neither tensor of the graph nor structure: numbers, arrays, strings, None."""
        keras = load_keras()
        flat = keras.tree.flatten((self.arguments.args, self.arguments.kwargs))
        return [value for value in flat if not isinstance(value, keras.KerasTensor)]


@dataclass(frozen=True, slots=True, eq=False)
class Calls:
    """A whole network. Values are numbered; ``shapes`` and ``dtypes`` are by number, None where a size is open."""

    model: Any
    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_names: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    dtypes: tuple[str, ...]

    @property
    def operations(self) -> dict[str, Any]:
        """Each operation once, by name, in the order of its first call."""
        return {call.name: call.operation for call in self.calls}


def read_calls(model: Any) -> Calls:
    """Raises `ModelError` where the network is none of Keras 3, or has no graph (subclassed, or not built yet)."""
    graph = _graph(model, "the network")
    reader = _Reader()
    reader.names.update(tensor.name for tensor in graph.inputs)
    for operation in graph.operations:  # before any nested one of the same name: outputs go by their layers' names
        if not _is_network(operation) and operation.name not in reader.names:
            reader.name(operation, "")
    inputs = [reader.value(tensor) for tensor in graph.inputs]
    outputs = reader.read(graph, inputs, "")
    names = tuple(tensor.name for tensor in graph.inputs)
    return Calls(
        model, tuple(reader.calls), tuple(inputs), tuple(outputs), names, tuple(reader.shapes), tuple(reader.dtypes)
    )  # fmt: skip


@dataclass(slots=True)
class _Reader:
    calls: list[Call] = field(default_factory=list)
    shapes: list[tuple[int | None, ...]] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    named: dict[int, str] = field(default_factory=dict)

    def value(self, tensor: Any) -> int:
        self.shapes.append(tuple(tensor.shape))
        self.dtypes.append(str(tensor.dtype))
        return len(self.shapes) - 1

    def read(self, graph: Any, inputs: Sequence[int], prefix: str) -> list[int]:
        scope = {id(tensor): number for tensor, number in zip(graph.inputs, inputs, strict=True)}
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if node.is_input or all(id(tensor) in scope for tensor in node.outputs):
                    continue
                taken = {id(tensor): scope[id(tensor)] for tensor in node.input_tensors}
                if _is_network(node.operation):
                    outputs = self.unfold(node, taken, prefix)
                else:
                    outputs = [self.value(tensor) for tensor in node.outputs]
                    self.calls.append(
                        Call(
                            len(self.calls), node.operation, self.name(node.operation, prefix), node.arguments, taken,
                            tuple(taken[id(tensor)] for tensor in node.input_tensors), tuple(outputs),
                        )
                    )  # fmt: skip
                scope.update((id(tensor), number) for tensor, number in zip(node.outputs, outputs, strict=True))
        return [scope[id(tensor)] for tensor in graph.outputs]

    def unfold(self, node: Any, taken: Mapping[int, int], prefix: str) -> list[int]:
        nested = node.operation
        graph = _graph(nested, nested.name)
        given = node.input_tensors
        ranks = [len(tensor.shape) for tensor in given]
        if ranks != [len(tensor.shape) for tensor in graph.inputs]:
            raise ModelError(
                f"nested network {nested.name} is called with other ranks than it was built for",
                expected=[len(tensor.shape) for tensor in graph.inputs], found=ranks,
            )  # fmt: skip
        if len(given) > 1:  # dictionaries reach a nested network by name, lists by place
            by_name = {tensor.name: tensor for tensor in graph.inputs}
            first = node.arguments.args[0] if node.arguments.args else None
            if isinstance(first, dict):
                if set(first) != set(by_name):
                    raise ModelError(
                        f"nested network {nested.name}", expected=sorted(by_name), found=sorted(first)
                    )  # fmt: skip
                given = [first[tensor.name] for tensor in graph.inputs]
        return self.read(graph, [taken[id(tensor)] for tensor in given], f"{prefix}{nested.name}_")

    def name(self, operation: Any, prefix: str) -> str:
        known = self.named.get(id(operation))
        if known is not None:
            return known
        name = operation.name
        if name in self.names:
            name = f"{prefix}{name}"
        count = 1
        while name in self.names:
            count += 1
            name = f"{prefix}{operation.name}_{count}"
        self.names.add(name)
        self.named[id(operation)] = name
        return str(name)


def _is_network(operation: Any) -> bool:
    return isinstance(operation, load_keras().Model) and _functional(operation) is not None


def _functional(model: Any) -> Any:
    keras = load_keras()
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None)
    return model if isinstance(model, keras.Function) else None


def _graph(model: Any, name: str) -> Any:
    keras = load_keras()
    if not isinstance(model, keras.Model):
        raise ModelError(
            name, expected="a keras.Model (Keras 3)", found=f"{type(model).__module__}.{type(model).__qualname__}",
            fix="load it with Keras 3, or rebuild it there and copy its weights",
        )  # fmt: skip
    graph = _functional(model)
    if graph is None:
        sequential = isinstance(model, keras.Sequential)
        raise ModelError(
            f"{model.name} has no graph of layers", expected="a functional or a built Sequential network",
            found="a Sequential that was not built" if sequential else f"a subclassed network, {type(model).__qualname__}",
            fix="give it a keras.Input" if sequential else "rewrite its call() with the functional API",
        )  # fmt: skip
    return graph
