"""Which channels must go together: the dependency graph of a network's output channels.

Every channel that a layer makes is a number of its own; following the calls ties numbers together (union-find). The
tied sets are the *units*: one unit goes as a whole or stays. Units with the same makers form a *group*, within which
they compete. The idea of a dependency graph is DepGraph's (Fang et al., arXiv 2301.12900); here it is kept by single
channels, so concatenations, flattening and depth multipliers need no special case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .calls import Calls, read_calls
from .rule import Channels, IntArray, Kept, Rule, Shapes
from .rules import kind, rule_for


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A layer of a group: one that makes its channels, or a batch normalisation of them."""

    layer: str
    kind: str
    units: IntArray
    """(channels of the layer's output,): the group's unit that each belongs to, -1 for none."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Channels that go together, unit by unit."""

    name: str
    """Its first maker's; with ``:2`` and so on where that layer's channels fall into several groups."""
    layers: tuple[str, ...]
    """The layers that make its channels, in the network's order."""
    size: int
    """Units that compete with one another."""
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGraph:
    """A network, and what may be pruned in it."""

    calls: Calls
    rules: tuple[Rule | None, ...]
    """By call; None where its channels are kept whole."""
    channels: tuple[Channels, ...]
    """By value: the channels of its last axis, tied ones with the same number."""
    groups: tuple[Group, ...]
    kept: Mapping[str, str]
    """Layers that make channels of which some are never pruned, with the first reason."""
    unknown: Mapping[str, str]
    """Operations without a rule, or whose rule does not hold, with the reason."""
    units: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    """Channel number -> group, unit; numbers that are not here are never pruned."""

    def dead(self, removed: Mapping[str, frozenset[int]]) -> IntArray:
        """The channel numbers of removed units. ``removed``: units by group."""
        return np.array([c for c, (group, unit) in self.units.items() if unit in removed.get(group, ())], np.int64)

    def alive(self, dead: IntArray, value: int) -> IntArray:
        """The places along a value's last axis that remain."""
        channels = self.channels[value]
        return np.zeros(0, np.int64) if channels is None else np.flatnonzero(~np.isin(channels, dead))

    def operation(self, layer: str) -> Any:
        """The layer of this name."""
        return self.calls.operations[layer]


class _Ties:
    """Union-find over channel numbers; see `vedette_converter.prune.rule.Ties`."""

    def __init__(self) -> None:
        self.parents: list[int] = []
        self.maker: list[str] = []  # "" for an input's channels and those of unknown operations
        self.made: dict[str, IntArray] = {}
        self.kept: list[tuple[IntArray, str]] = []

    def fresh(self, size: int, maker: str = "") -> IntArray:
        first = len(self.parents)
        self.parents.extend(range(first, first + size))
        self.maker.extend([maker] * size)
        return np.arange(first, first + size, dtype=np.int64)

    def new(self, layer: str, size: int) -> IntArray:
        if layer not in self.made:
            self.made[layer] = self.fresh(size, layer)
        return self.made[layer]

    def root(self, channel: int) -> int:
        while self.parents[channel] != channel:
            self.parents[channel] = self.parents[self.parents[channel]]
            channel = self.parents[channel]
        return channel

    def roots(self, channels: IntArray) -> IntArray:
        return np.array([self.root(int(c)) for c in channels], np.int64)

    def tie(self, a: IntArray, b: IntArray) -> None:
        for one, other in zip(a, b, strict=True):
            first, second = sorted((self.root(int(one)), self.root(int(other))))
            self.parents[second] = first

    def keep(self, channels: IntArray, reason: str) -> None:
        self.kept.append((channels, reason))


def analyse(model: Any) -> ChannelGraph:
    """Follows the channels of a functional or Sequential network of Keras 3, nested networks unfolded.

    Channels of the network's inputs and outputs are kept, and so are those that enter or leave an operation without a
    rule. Raises `ModelError` where the network has no graph, or has channels first.
    """
    calls = read_calls(model)
    ties = _Ties()
    channels: list[Channels] = [None] * len(calls.shapes)
    for number, name in zip(calls.inputs, calls.input_names, strict=True):
        channels[number] = _whole(calls, number, ties, f"input {name} of the network")
    rules: list[Rule | None] = []
    unknown: dict[str, str] = {}
    first: dict[str, tuple[IntArray, IntArray]] = {}
    for call in calls.calls:
        rule = rule_for(call)
        inputs = [c for n in call.inputs if (c := channels[n]) is not None]
        try:
            if rule is None:
                raise Kept("no rule for it")
            if len(inputs) != len(call.inputs) or not inputs or len(call.outputs) != 1:
                raise Kept("a tensor without a last axis of known size")
            shapes = Shapes(tuple(calls.shapes[n] for n in call.inputs), calls.shapes[call.outputs[0]])
            before = first.get(call.name)
            if rule.bound and before is not None and len(before[0]) != len(inputs[0]):
                raise Kept("its calls have other numbers of channels")
            if rule.bound and call.name in unknown:
                raise Kept(unknown[call.name])
            result = rule.follow(call, inputs, shapes, ties)
            if rule.bound and before is not None and len(before[1]) != len(result):
                raise Kept("its calls have other numbers of channels")
            if rule.bound and before is not None:  # the same weights: the same channels in every call
                ties.tie(before[0], inputs[0])
                ties.tie(before[1], result)
            first.setdefault(call.name, (inputs[0], result))
            channels[call.outputs[0]] = result
        except Kept as verdict:
            reason = f"{call.name} ({kind(call.operation)}): {verdict}"
            unknown[call.name] = str(verdict)
            rule = None
            for used in inputs:
                ties.keep(used, reason)
            for pair in [first[call.name]] if call.name in first else []:
                for used in pair:
                    ties.keep(used, reason)
            for number in call.outputs:
                channels[number] = _whole(calls, number, ties, reason)
        rules.append(rule)
    for number in calls.outputs:
        output = channels[number]
        if output is not None:
            ties.kept.insert(0, (output, "an output of the network"))  # the reason to name before any other
    return _grouped(calls, tuple(rules), channels, ties, unknown)


def _whole(calls: Calls, number: int, ties: _Ties, reason: str) -> Channels:
    shape = calls.shapes[number]
    if len(shape) < 2 or shape[-1] is None:
        return None
    channels = ties.fresh(shape[-1])
    ties.keep(channels, reason)
    return channels


def _grouped(
    calls: Calls, rules: tuple[Rule | None, ...], channels: list[Channels], ties: _Ties, unknown: Mapping[str, str]
) -> ChannelGraph:
    reasons: dict[int, str] = {}
    for some, reason in ties.kept:
        for root in ties.roots(some):
            reasons.setdefault(int(root), reason)
    makers: dict[int, Counter[str]] = {}  # root -> how often each layer makes a channel of this unit
    kept: dict[str, str] = {}
    order = {name: place for place, name in enumerate(ties.made)}
    for channel, maker in enumerate(ties.maker):
        root = ties.root(channel)
        if root in reasons:
            if maker:
                kept.setdefault(maker, reasons[root])
        elif maker:
            makers.setdefault(root, Counter())[maker] += 1
    roots: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for root, counted in sorted(makers.items()):
        roots.setdefault(tuple(sorted(counted.items(), key=lambda item: order[item[0]])), []).append(root)
    names: Counter[str] = Counter()
    units: dict[int, tuple[str, int]] = {}
    named: list[tuple[str, tuple[str, ...], list[int]]] = []
    for signature, own in roots.items():
        layers = tuple(layer for layer, _ in signature)
        names[layers[0]] += 1
        name = layers[0] if names[layers[0]] == 1 else f"{layers[0]}:{names[layers[0]]}"
        named.append((name, layers, own))
        units.update({root: (name, unit) for unit, root in enumerate(own)})
    resolved = tuple(None if some is None else ties.roots(some) for some in channels)
    members = _members(calls, rules, resolved, units)
    groups = tuple(Group(name, layers, len(own), tuple(members.get(name, ()))) for name, layers, own in named)
    return ChannelGraph(calls, rules, resolved, groups, kept, unknown, units)


def _members(
    calls: Calls, rules: tuple[Rule | None, ...], channels: tuple[Channels, ...], units: Mapping[int, tuple[str, int]]
) -> dict[str, list[Member]]:
    members: dict[str, list[Member]] = {}
    seen: set[str] = set()
    for call, rule in zip(calls.calls, rules, strict=True):
        kind_ = kind(call.operation)
        output = channels[call.outputs[0]] if call.outputs else None
        if rule is None or output is None or call.name in seen or not (rule.makes or kind_ == "BatchNormalization"):
            continue
        seen.add(call.name)
        places = [units.get(int(c), ("", -1)) for c in output]
        for group in dict.fromkeys(name for name, _ in places if name):
            own = np.array([unit if name == group else -1 for name, unit in places], np.int64)
            members.setdefault(group, []).append(Member(call.name, kind_, own))
    return members
