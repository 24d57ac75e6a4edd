"""The names of topics. Nothing else builds one."""

from __future__ import annotations

from dataclasses import dataclass

from vedette.delivery import Key, Stream


@dataclass(frozen=True, slots=True)
class Topics:
    """Every topic of one device."""

    root: str
    device: str

    @property
    def base(self) -> str:
        """``<root>/<device>``"""
        return f"{self.root}/{self.device}"

    @property
    def status(self) -> str:
        """Birth and will."""
        return f"{self.base}/status"

    @property
    def health(self) -> str:
        """Temperature, memory, disk, clock."""
        return f"{self.base}/health"

    @property
    def ledger(self) -> str:
        """The delivery ledger."""
        return f"{self.base}/ledger"

    @property
    def commands(self) -> str:
        """A filter for every command to this device."""
        return f"{self.base}/cmd/+"

    def command(self, name: str) -> str:
        """``<root>/<device>/cmd/<name>``"""
        return f"{self.base}/cmd/{name}"

    def reply(self, command_id: str) -> str:
        """Where a command's reply goes."""
        return f"{self.base}/reply/{command_id}"

    @property
    def all(self) -> str:
        """A filter for everything this device says."""
        return f"{self.base}/#"

    def pipeline(self, name: str, topic: str) -> str:
        """``<root>/<device>/<pipeline>/<topic>``"""
        return f"{self.base}/{name}/{topic}"

    def stream(self, stream: Stream) -> str:
        """Where a stream's messages go."""
        return self.pipeline(stream.pipeline, stream.topic)

    def message_id(self, key: Key) -> str:
        """``device-epoch-pipeline-topic-seq``: never used twice."""
        return f"{self.device}-{key.epoch}-{key.stream.pipeline}-{key.stream.topic}-{key.seq}"
