"""A table that is written anew each second: ``vedette top``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from rich.console import Group
from rich.live import Live

from vedette.contract.errors import VedetteError
from vedette.terminal import Console

from . import screen
from .address import Broker
from .bars import ASCII, BLOCKS
from .fleet import TOPICS, Fleet
from .keys import keyboard
from .listening import Listening, Protocol
from .place import filters

EVERY_S: Final = 1.0
PLAIN_WIDTH: Final = 80  # columns where no screen can be written anew


class Top:
    """`run` shows it. The broker is heard on a thread of its own."""

    def __init__(self, broker: Broker, *, protocol: Protocol, device: str = "") -> None:
        self._title = str(broker).removeprefix("mqtt://")
        self._fleet = Fleet(broker.root)
        wanted = filters(broker.root, device=device, topics=TOPICS)
        self._listening = Listening(broker.options, wanted, self._fleet.heard, self._changed, protocol=protocol)
        self._error: BaseException | None = None
        self._settled = threading.Event()  # connected once, or never
        self._thread = threading.Thread(target=self._listen, name="listen", daemon=True)

    def run(self, count: int | None) -> None:
        """Until q or Ctrl-C, or ``count`` tables have been shown. Raises what the broker says no with."""
        self._thread.start()
        try:
            while not self._settled.wait(0.2):
                pass
            self._raise_error()
            console = Console(highlight=False, soft_wrap=True)
            if console.can_rewrite:
                self._on_screen(console, count)
            else:
                self._plainly(count)
        finally:
            self._listening.stop()
            self._thread.join(2.0)

    def _on_screen(self, console: Console, count: int | None) -> None:
        blocks = BLOCKS if console.encoding.startswith("utf") else ASCII
        shown = 0
        with keyboard() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                rows = screen.lines(self._fleet, self._title, width=console.width, height=console.height, blocks=blocks)
                live.update(Group(*rows), refresh=True)
                shown += 1
                if shown == count or self._wait(keys.wait):
                    return
                self._raise_error()

    def _plainly(self, count: int | None) -> None:
        shown = 0
        with keyboard() as keys:
            while True:
                if shown:
                    print()
                for row in screen.lines(self._fleet, self._title, width=PLAIN_WIDTH, height=None):
                    print(row.plain.rstrip())
                print(end="", flush=True)
                shown += 1
                if shown == count or self._wait(keys.wait):
                    return
                self._raise_error()

    def _wait(self, key: Callable[[float], str]) -> bool:
        """A second; whether q was typed meanwhile."""
        end = time.monotonic() + EVERY_S
        while (left := end - time.monotonic()) > 0:
            if "q" in key(left).lower():
                return True
        return False

    def _changed(self, why: str | None) -> None:
        self._fleet.changed(why)
        self._settled.set()

    def _listen(self) -> None:
        try:
            self._listening.run()
        except VedetteError as error:
            self._error = error
        finally:
            self._settled.set()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
