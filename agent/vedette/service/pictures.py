"""Which pipelines take snapshots, and all of them at once: started, asked, counted, stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vedette.contract.errors import UserError
from vedette.contract.types import Float32Array
from vedette.mqtt.requests import Snapshot
from vedette.pictures.snapshots import Snapshots

from .prepared import Prepared


class Pictures:
    """Any thread may call anything."""

    def __init__(
        self,
        prepared: Sequence[Prepared],
        thresholds: Callable[[str], Float32Array],
        publish: Callable[[str, bytes], bool],
        alert: Callable[[str, str], None],
    ) -> None:
        """``thresholds``, ``publish`` and ``alert``: as of `Snapshots`, with the pipeline's name first."""

        def taken(pipeline: Prepared) -> Snapshots | None:
            name, options = pipeline.name, pipeline.config.snapshots
            if options is None:
                return None
            return Snapshots(
                options,
                name,
                pipeline.spec.labels,
                lambda: thresholds(name),
                lambda jpeg: publish(name, jpeg),
                lambda why: alert(name, why),
            )

        self._taken = {p.name: made for p in prepared if (made := taken(p)) is not None}
        self._on_command = {p.name for p in prepared if p.config.snapshots is not None and p.config.snapshots.command}

    def of(self, pipeline: str) -> Snapshots | None:
        """None where it takes none."""
        return self._taken.get(pipeline)

    def start(self) -> None:
        """See `Snapshots.start`."""
        for snapshots in self._taken.values():
            snapshots.start()

    def stop(self, timeout_s: float) -> None:
        """See `Snapshots.stop`; each may take so long."""
        for snapshots in self._taken.values():
            snapshots.stop(timeout_s)

    def ask(self, request: Snapshot) -> None:
        """The next picture of a pipeline. Raises `UserError` where it takes none when a command asks."""
        if request.pipeline not in self._on_command:
            raise UserError(
                "no pictures of this pipeline", where=request.pipeline,
                fix=f"give it [pipeline.{request.pipeline}.snapshots] with folder or mqtt = true, and command = true",
            )  # fmt: skip
        self._taken[request.pipeline].ask()

    def relabel(self, prepared: Prepared) -> None:
        """A pipeline has another model, see `Snapshots.relabel`."""
        if (snapshots := self.of(prepared.name)) is not None:
            snapshots.relabel(prepared.spec.labels)

    def counts(self) -> dict[str, dict[str, int]]:
        """By pipeline, what became of them; see `Snapshots.counts`."""
        return {name: snapshots.counts() for name, snapshots in self._taken.items()}
