"""A model on an accelerator: which network of a bundle it runs, and what it must do before it is trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec

from vedette.contract import golden
from vedette.contract.errors import EngineWrongError, ModelError
from vedette.contract.manifest import EngineClass, Manifest, Tolerance
from vedette.engine import (
    EDGETPU_MEMBER,
    AcceleratedEngine,
    Delegate,
    Engine,
    IsolatedEngine,
    Proof,
    Runtime,
    SelfTest,
    run_self_test,
)

from .spec import ModelSpec

CHECKED: Final = 4  # golden inputs that the accelerator is asked again while it runs; each costs a copy of its outputs


@dataclass(frozen=True, slots=True)
class Acceleration:
    """How models are accelerated. ``deadline_s``: of one run; ``check_s``: from one check to the next, 0: none."""

    delegate: Delegate
    deadline_s: float = 2.0
    check_s: float = 5.0
    first_s: float = 10.0
    """How long a start waits for the accelerator before it begins on the CPU."""
    retry_s: tuple[float, float] = (1.0, 60.0)
    """From a fault to the next try: at first, and at most."""


def check_acceleration(spec: ModelSpec, delegate: Delegate) -> None:
    """Raises `ModelError` where this model cannot be accelerated, for nothing could say whether the answers are right, or
    there is nothing that the accelerator could run."""
    if spec.bundle is None:
        raise ModelError(
            "has no golden vectors, so nobody can say whether an accelerator answers rightly", where=spec.path,
            expected="a bundle", fix=f"make one with vedette-convert, or say delegate = false in its pipeline, "
            f"so that the CPU runs it and not {delegate.name}",
        )  # fmt: skip
    if delegate.compiled and EDGETPU_MEMBER not in spec.bundle.members:
        raise ModelError(
            "holds no network for the Edge TPU", where=spec.path, expected=EDGETPU_MEMBER,
            found=", ".join(spec.bundle.members), fix="convert it with edgetpu = true in its recipe, or say "
            "delegate = false in its pipeline",
        )  # fmt: skip


def accelerate(
    spec: ModelSpec, cpu: Engine, runtime: Runtime, acceleration: Acceleration, *, threads: int = 1
) -> AcceleratedEngine:
    """``cpu``: runs the same model, and will be the result's own. The bundle's contents are kept, for it may be replaced
    on disk while the accelerator has to be started anew. Raises as `check_acceleration` does.
    """
    start, proof = _parts(spec, runtime, acceleration, threads)
    return AcceleratedEngine(
        spec.name, cpu, acceleration.delegate.name, start, proof, check_s=acceleration.check_s,
        first_s=acceleration.first_s, retry_s=acceleration.retry_s,
    )  # fmt: skip


def try_acceleration(spec: ModelSpec, runtime: Runtime, acceleration: Acceleration, *, threads: int = 1) -> SelfTest:
    """Starts the accelerator, and what its self-test says. Raises as `check_acceleration` does, `EngineFaultError` where
    it does not run, and `EngineWrongError` where it would not be trusted."""
    start, proof = _parts(spec, runtime, acceleration, threads)
    engine = start(None)
    try:
        outcome = proof.judge(engine)
    finally:
        engine.close()
    if outcome.passed is not True:
        raise EngineWrongError("self-test failed", where=acceleration.delegate.name, found=outcome.reason)
    return outcome


def _parts(
    spec: ModelSpec, runtime: Runtime, acceleration: Acceleration, threads: int
) -> tuple[Callable[[int | None], Engine], Proof]:
    delegate = acceleration.delegate
    check_acceleration(spec, delegate)
    assert spec.bundle is not None
    network = spec.bundle.read(EDGETPU_MEMBER) if delegate.compiled else spec.bundle.flatbuffer()
    vectors = spec.bundle.read("golden.npz")

    def start(cancel_fd: int | None) -> Engine:
        return IsolatedEngine(
            network, delegate, runtime, threads=threads, deadline_s=acceleration.deadline_s, cancel_fd=cancel_fd
        )

    where = f"{spec.path}: golden.npz"
    samples = golden.decode(vectors, where).inputs[:CHECKED].copy()
    judge = partial(_judge, manifest=spec.bundle.manifest, labels=len(spec.labels), vectors=vectors, where=where)
    return start, Proof(judge, samples)


def _judge(engine: Engine, *, manifest: Manifest, labels: int, vectors: bytes, where: str) -> SelfTest:
    bound = _bound(manifest.tolerances, engine.description.engine_class)
    judged = msgspec.structs.replace(manifest, tolerances=bound)
    return run_self_test(engine, judged, labels, golden.decode(vectors, where), where)


def _bound(stated: Mapping[EngineClass, Tolerance], engine_class: EngineClass) -> dict[EngineClass, Tolerance]:
    """The bound of this class; of one that the bundle says nothing about, the widest that it states: a converter without
    the device cannot measure it, and an accelerator has to be about as good as the CPU's kernels are."""
    if engine_class in stated or not stated:
        return dict(stated)
    widest = Tolerance(
        min_agreement=min(bound.min_agreement for bound in stated.values()),
        max_mean_score_error=max(bound.max_mean_score_error for bound in stated.values()),
    )
    return {engine_class: widest}
