"""Which channels matter least. A criterion scores the units of each group; the lowest go first.

How scores of a group's members become a unit's is said by each criterion, for it differs in the literature. A group
that a criterion cannot score is not in its result, and `plan` leaves it whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from vedette.contract.errors import UserError

from ..tensorflow import load_tensorflow
from .graph import ChannelGraph, Group, Member

FloatArray: TypeAlias = npt.NDArray[np.float64]
Scores: TypeAlias = Mapping[str, FloatArray]
"""Group -> (units,): higher matters more. Comparable between groups, so that they may be ranked together."""

_TINY: Final = 1e-12


class Criterion(Protocol):
    """Scores a network's units."""

    def __call__(self, graph: ChannelGraph) -> Scores:
        """Raises `UserError` where it cannot score the network at all."""
        ...


class L1Norm:
    """The sum of a filter's absolute weights, sum |w[h, w, i, c]| for output channel c (Li et al., arXiv 1608.08710).

    Each layer's norms are divided by their mean, for a wide kernel sums more weights; a unit's score is the mean over
    its channels in all convolutions and dense layers that make them. Biases and batch norms are not looked at.
    """

    def __call__(self, graph: ChannelGraph) -> Scores:
        return _mean_over_makers(graph, lambda filters: np.abs(filters).sum(axis=1))


class GeometricMedian:
    """FPGM (He et al., arXiv 1811.00250, equation 4): the sum of a filter's distances to all filters of its layer.

    sum_j ||F_c - F_j||_2. The lowest lie closest to the layer's geometric median, so the others can stand in for them;
    small filters are not thereby unimportant. Combined over a unit's members like `L1Norm`.
    """

    def __call__(self, graph: ChannelGraph) -> Scores:
        return _mean_over_makers(graph, _distances)


class BatchNormScale:
    """|gamma| of the batch normalisations (Network Slimming, Liu et al., arXiv 1708.06519), not normalised by layer.

    A unit's score is the mean over all batch normalisations that it goes through. Groups without one, or with
    ``scale=False``, are not scored. It means something where gammas were pushed towards zero while training.
    """

    def __call__(self, graph: ChannelGraph) -> Scores:
        scores = {}
        for group in graph.groups:
            total, count = np.zeros(group.size), np.zeros(group.size)
            for member in group.members:
                if member.kind == "BatchNormalization" and (gamma := graph.operation(member.layer).gamma) is not None:
                    _collect(member, np.abs(_numpy(gamma)), total, count)
            if count.all():
                scores[group.name] = total / count
        if not scores:
            raise UserError(
                "no group of channels has a batch normalisation with a scale", where=graph.calls.model.name,
                fix="choose the criterion l1",
            )  # fmt: skip
        return scores


class Taylor:
    """First-order Taylor expansion of the loss (Molchanov et al., arXiv 1906.10771, equation 8 for a set of weights).

    I = E[(sum over the unit's weights of gradient * weight)^2], the expectation over the given batches: the squared
    change of the loss, to first order, when the unit's weights become zero. The unit is one set, so the products of all
    its members are summed, sign and all, before they are squared. Where a batch normalisation follows a layer directly,
    its gamma and beta stand for it (the paper's gate behind the batch norm), else its kernel and bias.
    """

    def __init__(self, batches: Iterable[Any], loss: Callable[[Any, Any], Any]) -> None:
        """``loss(model, batch)``: a scalar tensor, the model called with ``training=False``.

        ``batches``: whatever ``loss`` takes; iterated once for each network that is scored, so give a list.
        """
        self._batches = batches
        self._loss = loss

    def __call__(self, graph: ChannelGraph) -> Scores:
        tf = load_tensorflow()
        sites = {group.name: _sites(graph, group) for group in graph.groups}
        variables = {id(v): v for found in sites.values() for _, layer in found for v in _parameters(layer)}
        totals = {group.name: np.zeros(group.size) for group in graph.groups}
        batches = 0
        for batch in self._batches:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                for variable in variables.values():
                    tape.watch(variable.value)
                loss = self._loss(graph.calls.model, batch)
            gradients = tape.gradient(loss, [v.value for v in variables.values()])
            products = {
                key: 0.0 if gradient is None else np.asarray(gradient, np.float64) * _numpy(variable)
                for (key, variable), gradient in zip(variables.items(), gradients, strict=True)
            }
            for group in graph.groups:
                change = np.zeros(group.size)
                for member, layer in sites[group.name]:
                    for variable in _parameters(layer):
                        product = products[id(variable)]
                        if isinstance(product, np.ndarray):
                            _collect(
                                member, _filters(layer, variable, product).sum(axis=1), change, np.zeros(group.size)
                            )
                totals[group.name] += change**2
            batches += 1
        if batches == 0:
            raise UserError("the Taylor criterion needs data", expected="at least one batch", found="none")
        scores = {name: total / batches for name, total in totals.items()}
        if not all(np.isfinite(score).all() for score in scores.values()):
            raise UserError("the loss has no finite gradient", where=graph.calls.model.name, fix="look for NaN in data")
        return scores


def _sites(graph: ChannelGraph, group: Group) -> list[tuple[Member, Any]]:
    """Where a unit's weights are looked at: its makers, or the batch norms right behind them."""
    calls = graph.calls.calls
    readers: dict[int, list[str]] = {}
    for call in calls:
        for number in call.inputs:
            readers.setdefault(number, []).append(call.name)
    norms = {m.layer: m for m in group.members if m.kind == "BatchNormalization"}
    sites: dict[str, Member] = {}
    for member in group.members:
        if member.layer not in group.layers:
            continue
        followers = [r for call in calls if call.name == member.layer for r in readers.get(call.outputs[0], [])]
        if followers and all(name in norms for name in followers):
            sites.update({name: norms[name] for name in followers})
        else:
            sites[member.layer] = member
    return [(member, graph.operation(name)) for name, member in sites.items()]


def _parameters(layer: Any) -> list[Any]:
    """A batch norm's gamma and beta; a maker's last kernel and its bias."""
    names = ("gamma", "beta") if hasattr(layer, "gamma") else ("pointwise_kernel", "kernel", "bias")
    found = [next((w for w in layer.weights if w.name == name), None) for name in names]
    return [weight for weight in found if weight is not None]


def _filters(layer: Any, variable: Any, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``values``, shaped as the variable, as (output channels, weights of each)."""
    if values.ndim == 1:
        return values[:, None]
    transposed = type(layer).__name__.endswith("Transpose")  # (h, w, out, in)
    values = np.moveaxis(values, -2 if transposed else -1, 0)
    return values.reshape(len(values), -1)


def _mean_over_makers(graph: ChannelGraph, score: Callable[[FloatArray], FloatArray]) -> Scores:
    by_layer: dict[str, FloatArray] = {}
    scores = {}
    for group in graph.groups:
        total, count = np.zeros(group.size), np.zeros(group.size)
        for member in group.members:
            if member.layer not in group.layers:
                continue
            if member.layer not in by_layer:
                layer = graph.operation(member.layer)
                kernel = _parameters(layer)[0]
                raw = score(_filters(layer, kernel, _numpy(kernel)))
                if not np.isfinite(raw).all():
                    raise UserError(
                        f"layer {member.layer}",
                        where=graph.calls.model.name,
                        expected="finite weights",
                        found="NaN or inf",
                    )
                by_layer[member.layer] = raw / max(float(raw.mean()), _TINY)
            _collect(member, by_layer[member.layer], total, count)
        scores[group.name] = total / count
    return scores


def _distances(filters: FloatArray) -> FloatArray:
    squares = (filters**2).sum(axis=1)
    # ||a - b||^2 = a.a + b.b - 2 a.b, never below zero but for rounding
    between = np.maximum(squares[:, None] + squares[None, :] - 2 * filters @ filters.T, 0.0)
    np.fill_diagonal(between, 0.0)
    return np.asarray(np.sqrt(between).sum(axis=1))


def _collect(member: Member, values: npt.NDArray[Any], total: FloatArray, count: FloatArray) -> None:
    """Adds each channel's value to its unit's, and one to its unit's count."""
    own = member.units >= 0
    np.add.at(total, member.units[own], values[own])
    np.add.at(count, member.units[own], 1.0)


def _numpy(variable: Any) -> FloatArray:
    return np.asarray(variable.numpy(), np.float64)
