"""Who runs when: pipelines share the interpreters of one model, and all models share the cores, by weight.

The rule, in one place:

- *Cores.* At most ``cores // threads`` inferences run at the same moment (at least one), ``threads`` being those of one
  inference: more would only take turns inside the kernel, where no weight is heard. `Turns` holds to it.
- *Interpreters.* Pipelines of the same model share a `Lane`: as many interpreters as that bound allows, and no more than
  they can use together. Each interpreter has a thread of its own, which hands one inference on and begins the next without
  waking anybody in between.
- *Turns.* Start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queuing: A Scheduling Algorithm for Integrated
  Services Packet Switching Networks", 1996, section 2): each inference gets a start tag ``S = max(v, F)``, ``v`` the tag of
  the one that began last and ``F`` the finish tag of its pipeline's last one; the least tag goes first; afterwards
  ``F = S + time / weight``. So over any stretch of time in which two pipelines always have work, the engine time they got
  is in proportion to their weights, off by at most one inference each; and one that had nothing to do saves up nothing.

A pipeline has one inference under way at most, or as many as its seat says (``abreast``); they may then end in another
order than they began in, which is the pipeline's to mend.

Where nobody else wants it, a pipeline may borrow an interpreter and run it on its own thread (`Seat.run_now`): no thread
is woken, and what the network reads and writes is in that core's caches.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from vedette import clock
from vedette.contract.errors import FaultError, VedetteError
from vedette.engine import Engine

log = logging.getLogger(__name__)

IDLE_S: Final = 0.5  # how long one turn waits for work; a turn is what the watchdog calls progress

Run = Callable[[Engine], None]
Done = Callable[[FaultError | None], None]


def slots(threads: int, cores: int | None = None) -> int:
    """How many inferences of ``threads`` threads may run at the same moment. ``cores``: those this process may use."""
    return max(1, (cores or len(os.sched_getaffinity(0))) // threads)


class Turns:
    """The right to compute, for all lanes together. Any thread may call anything."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._changed = threading.Condition()
        self._running = 0
        self._waiting: list[float] = []
        self._virtual = 0.0

    @property
    def virtual(self) -> float:
        """The start tag of the inference that began last, seconds of engine time."""
        return self._virtual

    def enter(self, tag: float) -> None:
        """Waits until a slot is free and nobody with a smaller tag waits for it."""
        if self.try_enter(tag):
            return
        with self._changed:
            self._waiting.append(tag)
            self._changed.wait_for(lambda: self._running < self.slots and tag <= min(self._waiting))
            self._waiting.remove(tag)
            self._running += 1
            self._virtual = max(self._virtual, tag)
            if self._waiting and self._running < self.slots:
                self._changed.notify_all()

    def try_enter(self, tag: float) -> bool:
        """As `enter`, where nobody has to be waited for; whether it was so."""
        with self._changed:
            if self._running >= self.slots or self._waiting:
                return False
            self._running += 1
            self._virtual = max(self._virtual, tag)
            return True

    def leave(self) -> None:
        """Gives the slot back."""
        with self._changed:
            self._running -= 1
            if self._waiting:
                self._changed.notify_all()


class Seat:
    """One pipeline's place in a lane. Made by `Lane.seat`; `submit` may be called by any thread."""

    def __init__(self, lane: Lane, name: str, weight: float, abreast: int) -> None:
        self.name = name
        self.weight = weight
        self.abreast = abreast
        """How many inferences of it may run at the same moment."""
        self.lane = lane
        self.engine_s = 0.0
        """Engine time it has had, seconds; for the account of who got how much."""
        self.inferences = 0
        # under the lane's lock
        self._work: deque[tuple[Run, Done]] = deque()
        self._running = 0
        self._start = 0.0
        self._finish = 0.0

    def submit(self, run: Run, done: Done) -> None:
        """``run`` is called with an engine when this pipeline's turn comes, then ``done``, on the lane's thread.

        ``done`` is told the fault where ``run`` raised one. Neither may block.
        """
        self.lane._submit(self, run, done)

    def run_now(self, run: Run) -> bool:
        """``run`` is called with an engine here and now, on the caller's thread; False, and nothing done, where somebody
        else wants this lane's engines or all cores are taken. Raises the fault that ``run`` raised."""
        return self.lane._run_now(self, run)


class Lane:
    """The interpreters of one model. Owned by the service; its threads end with `stop`."""

    def __init__(self, name: str, engines: Sequence[Engine], turns: Turns) -> None:
        """``engines``: of the same model, each used by one thread alone from now on."""
        self.name = name
        self.engines: tuple[Engine, ...] = ()
        self._turns = turns
        self._changed = threading.Condition()
        self._seats: list[Seat] = []
        self._wanted = 0  # interpreters
        self._started = False
        self._stopped = False
        self._lent = False  # the first interpreter, to a pipeline's own thread
        self._turned_ns: list[int] = []
        self._threads: list[threading.Thread] = []
        for engine in engines:
            self.add(engine)

    def seat(self, name: str, weight: float = 1.0, abreast: int = 1) -> Seat:
        """A place for one more pipeline. ``weight``: above 0; twice the weight, twice the engine time when both want it.
        ``abreast``: how many of its inferences may run at the same moment."""
        if not weight > 0:
            raise ValueError(f"weight: expected a number above 0, found {weight}")
        seat = Seat(self, name, weight, abreast)
        with self._changed:
            self._seats.append(seat)
        return seat

    def leave(self, seat: Seat) -> None:
        """Takes a pipeline's place away. Nothing of it may be under way."""
        with self._changed:
            self._seats.remove(seat)

    @property
    def seats(self) -> int:
        """How many pipelines have a place."""
        return len(self._seats)

    @property
    def demand(self) -> int:
        """How many interpreters they could use at the same moment."""
        return sum(seat.abreast for seat in self._seats)

    def add(self, engine: Engine) -> None:
        """One more interpreter of the model."""
        with self._changed:
            number = len(self.engines)
            self.engines = (*self.engines, engine)
            self._wanted = number + 1
            self._turned_ns.append(clock.now_ns())
            thread = threading.Thread(
                target=self._serve, args=(number,), name=f"infer-{self.name}-{number}", daemon=True
            )
            self._threads.append(thread)
            if self._started:
                thread.start()

    def trim(self, count: int, timeout_s: float = 5.0) -> None:
        """Lets all interpreters but the first ``count`` go, after what they are doing; at least one stays."""
        with self._changed:
            self._wanted = min(self._wanted, max(1, count))
            self._changed.notify_all()
        deadline = time.monotonic() + timeout_s
        while len(self.engines) > self._wanted:
            last = self._threads[-1]
            if last.ident is not None:
                last.join(max(0.0, deadline - time.monotonic()))
            if last.is_alive():  # it hangs; the watchdog sees it
                return
            with self._changed:
                *rest, engine = self.engines
                self.engines = tuple(rest)
                self._threads.pop()
                self._turned_ns.pop()
            engine.close()

    @property
    def turned_ns(self) -> int:
        """When the thread that is furthest behind last finished an inference, or found nothing to do."""
        return min(self._turned_ns)

    @property
    def crowd(self) -> float:
        """For each interpreter, how many inferences the pipelines that have work now would run at once; at least 1."""
        wanted = sum(seat.abreast for seat in self._seats if seat._work or seat._running)
        return max(1.0, wanted / len(self.engines))

    def start(self) -> None:
        """Starts the threads; calling it again does nothing."""
        with self._changed:
            self._started = True
            for thread in self._threads:
                if thread.ident is None:
                    thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends the threads after what they are doing; work that waits is handed back undone with a fault."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """After `stop`: lets the interpreters go. One whose thread still hangs in native code is left to it."""
        for number, (thread, engine) in enumerate(zip(self._threads, self.engines, strict=True)):
            if not thread.is_alive() and not (self._lent and number == 0):
                engine.close()

    def _submit(self, seat: Seat, run: Run, done: Done) -> None:
        with self._changed:
            if not self._stopped:
                if not seat._work and not seat._running:  # it had nothing to do: what it did not use is gone
                    seat._start = max(self._turns.virtual, seat._finish)
                seat._work.append((run, done))
                self._changed.notify()
                return
        done(FaultError("the engine has been stopped", where=self.name))

    def _serve(self, number: int) -> None:
        engine = self.engines[number]
        while True:
            with self._changed:
                seat = self._next(number)
                if seat is None and not self._stopped and number < self._wanted:
                    self._changed.wait(IDLE_S)
                    seat = self._next(number)
                if seat is None:
                    if self._stopped:
                        return
                    if number >= self._wanted:
                        self._changed.notify()  # it may have been woken for work, which is another's now
                        return
                    self._turned_ns[number] = clock.now_ns()
                    continue
                seat._running += 1
                run, done = seat._work.popleft()
                tag = seat._start
            self._turns.enter(tag)
            fault = self._run(seat, run, engine, tag)
            self._turned_ns[number] = clock.now_ns()
            done(fault)

    def _run_now(self, seat: Seat, run: Run) -> bool:
        with self._changed:
            if self._stopped or self._lent or any(other._work or other._running for other in self._seats):
                return False
            tag = max(self._turns.virtual, seat._finish)
            if not self._turns.try_enter(tag):
                return False
            seat._running += 1
            self._lent = True
        fault = self._run(seat, run, self.engines[0], tag)
        with self._changed:
            self._lent = False
            if any(other._work for other in self._seats):
                self._changed.notify_all()  # it came meanwhile
        if fault is not None:
            raise fault
        return True

    def _run(self, seat: Seat, run: Run, engine: Engine, tag: float) -> FaultError | None:
        """One inference, whose turn it is and which has a slot; accounts for it, and gives the slot back."""
        begun = time.perf_counter()
        fault: FaultError | None = None
        try:
            run(engine)
        except FaultError as error:
            fault = error
        except VedetteError as error:
            fault = FaultError(error.problem, where=error.where, expected=error.expected, found=error.found)
        except Exception as error:
            log.exception("engine of %s", seat.name)
            fault = FaultError("a fault of ours", where=f"engine of {seat.name}", found=repr(error))
        finally:
            took_s = time.perf_counter() - begun
            self._turns.leave()
        with self._changed:
            seat._running -= 1
            seat.engine_s += took_s
            seat.inferences += 1
            seat._finish = max(seat._finish, tag) + took_s / seat.weight  # above the tag where another ended meanwhile
            seat._start = seat._finish  # of what has come meanwhile
            if seat._work and len(self.engines) > 1:
                self._changed.notify()  # another interpreter may be waiting for this very pipeline
        return fault

    def _next(self, number: int) -> Seat | None:
        """The pipeline whose turn it is; none for an interpreter that is to go. Under the lock."""
        ready = [seat for seat in self._seats if seat._work and seat._running < seat.abreast]
        if self._stopped:
            for seat in ready:
                while seat._work:
                    _, done = seat._work.popleft()
                    done(FaultError("the engine has been stopped", where=self.name))
            return None
        if number >= self._wanted or (number == 0 and self._lent):
            return None
        return min(ready, key=lambda seat: seat._start, default=None)
