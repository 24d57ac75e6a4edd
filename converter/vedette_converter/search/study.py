"""The trials of a search in a database, by Optuna: who proposes, what was tried, what died and is tried again.

Several processes, on as many machines as reach the database, work on one search. Each says every `HEARTBEAT_S` that it
lives; a trial whose process has been silent for `SILENCE_S` is done again, `DEATHS` times at most.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from vedette.contract.errors import FaultError, MissingPackageError, UserError, VedetteError

from .front import Point
from .space import Choice, Space
from .trial import Outcome

try:
    import optuna
    import sqlalchemy
    from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
    from optuna.trial import FrozenTrial, TrialState
except ImportError as missing:
    raise MissingPackageError(
        "Optuna is needed to search", found=str(missing), fix="pip install 'vedette[converter]'"
    ) from None

HEARTBEAT_S: Final = 10
SILENCE_S: Final = 60
DEATHS: Final = 3
POLL_S: Final = 1.0  # between two looks at what others are at
OPENINGS: Final = 5
STARTUP: Final = 10  # trials, at most, that are drawn by chance before the estimator proposes

optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # a trial that fails is in the table, with its reason


@dataclass(frozen=True, slots=True)
class Done:
    """A trial that came to something."""

    number: int
    choice: Choice
    point: Point
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Failed:
    """A trial that did not."""

    number: int
    choice: Choice
    reason: str


@dataclass(frozen=True, slots=True)
class Tried:
    """Everything that was tried so far, each choice once."""

    done: tuple[Done, ...]
    failed: tuple[Failed, ...]
    running: int
    waiting: int
    died: int
    """Trials whose process ended in the middle."""

    @property
    def finished(self) -> int:
        """How many choices are through."""
        return len(self.done) + len(self.failed)


class _TwinError(Exception):
    """This choice was tried, or is being tried."""


class Study:
    """One search. Not for use by two threads at once: open it in each."""

    def __init__(self, url: str, name: str, space: Space, *, sampler: str, seed: int, trials: int) -> None:
        """Opens or begins it. ``name``: of everything that its results depend on. ``trials``: how many are planned.

        Raises `UserError` where the database cannot be used, `MissingPackageError` for its driver.
        """
        self._space = space
        self._seed = seed
        try:
            self._study = self._opened(url, name, _PerTrial(sampler, seed, trials))
        except ImportError as error:
            cause = error.__cause__ or error.__context__ or error
            raise MissingPackageError(
                "the database's driver is not installed", where=shown(url), found=str(cause),
                fix=f"pip install {getattr(cause, 'name', None) or 'its driver'}",
            ) from None  # fmt: skip
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
            raise UserError(
                "the database cannot be used", where=shown(url), expected="a URL of SQLAlchemy's, sqlite:///FILE, say",
                found=_first_line(error, url),
            ) from None  # fmt: skip
        for choice in space.first():
            self._study.enqueue_trial(space.parameters(choice), skip_if_exists=True)

    def _opened(self, url: str, name: str, sampler: BaseSampler) -> optuna.Study:
        """Several that begin at once make the same tables; those that come second find them when they try again."""
        for left in reversed(range(OPENINGS)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # heartbeats are called experimental
                try:
                    storage = optuna.storages.RDBStorage(
                        url, heartbeat_interval=HEARTBEAT_S, grace_period=SILENCE_S,
                        heartbeat_stale_trial_callback=self._again,
                        engine_kwargs={"connect_args": {"timeout": 60}} if url.startswith("sqlite") else None,
                    )  # fmt: skip
                    return optuna.create_study(
                        storage=storage, study_name=name, load_if_exists=True, directions=["minimize"] * 3,
                        sampler=sampler,
                    )  # fmt: skip
                except sqlalchemy.exc.DBAPIError as error:
                    if not left or not any(word in str(error) for word in ("already exists", "duplicate", "UNIQUE")):
                        raise
                    time.sleep(POLL_S)
        raise AssertionError  # the last of them has returned or raised

    def bury(self) -> int:
        """Gives up every trial that is running, to be done again: for who knows that nobody else works here."""
        buried = 0
        for trial in self._trials(TrialState.RUNNING):
            self._study.tell(trial.number, state=TrialState.FAIL)
            self._again(self._study, trial)
            buried += 1
        return buried

    def tried(self) -> Tried:
        """See `Tried`."""
        done, failed, died = [], [], 0
        trials = self._trials()
        for trial in trials:
            choice = self._choice(trial)
            if trial.state == TrialState.COMPLETE and choice is not None:
                point = Point(trial.values[0], trial.values[1], int(trial.values[2]))
                done.append(Done(trial.number, choice, point, Outcome(**trial.user_attrs["outcome"])))
            elif trial.state == TrialState.FAIL and "twin" not in trial.user_attrs:
                if "reason" in trial.user_attrs and choice is not None:
                    failed.append(Failed(trial.number, choice, trial.user_attrs["reason"]))
                else:
                    died += 1
        running = sum(trial.state == TrialState.RUNNING for trial in trials)
        waiting = sum(trial.state == TrialState.WAITING for trial in trials)
        return Tried(tuple(done), tuple(failed), running, waiting, died)

    def work(
        self, trials: int, deadline: float, run: Callable[[int, Choice], tuple[Point, Outcome]],
        on_trial: Callable[[Tried], None] = lambda tried: None,
    ) -> None:  # fmt: skip
        """Runs one trial after the other until ``trials`` choices are through, whoever did them, or none is left.

        ``deadline``: of `time.monotonic`; no trial is begun after it. ``run``: the trial's number, what to build -> what
        came of it; raises `VedetteError` where it cannot be built, which is kept as the trial's reason. Where others are
        at the last trials it waits for them. Raises `FaultError` where the database is gone.
        """

        def objective(trial: optuna.Trial) -> Sequence[float]:
            choice = self._space.suggest(trial)
            if (twin := self._twin(trial.number, choice)) is not None:
                trial.set_user_attr("twin", twin)
                raise _TwinError
            try:
                point, outcome = run(trial.number, choice)
            except VedetteError as error:
                trial.set_user_attr("reason", error.line())
                raise
            trial.set_user_attr("outcome", asdict(outcome))
            return point.drop, point.ratio, point.bytes

        try:
            while time.monotonic() < deadline:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    optuna.storages.fail_stale_trials(self._study)
                tried = self.tried()
                on_trial(tried)
                if tried.finished >= trials:
                    return
                unseen = self._unseen()
                if not unseen and not tried.waiting and not tried.running:
                    return
                if tried.finished + tried.running >= trials or not (unseen or tried.waiting):
                    time.sleep(POLL_S)
                    continue
                self._one(objective)
                newest = self._study.trials[-1]
                if "twin" in newest.user_attrs and unseen:
                    chosen = unseen[int(np.random.default_rng([self._seed, newest.number]).integers(len(unseen)))]
                    self._study.enqueue_trial(self._space.parameters(chosen), skip_if_exists=True)
            on_trial(self.tried())
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            raise FaultError(
                "the database is gone", found=_first_line(error, ""), fix="run the same command again: it goes on"
            ) from None

    def figures(self) -> dict[str, Any]:
        """What was kept with `keep`."""
        return dict(self._study.user_attrs)

    def keep(self, key: str, value: Any) -> None:
        """Keeps a plain value with the search."""
        self._study.set_user_attr(key, value)

    def _one(self, objective: Callable[[optuna.Trial], Sequence[float]]) -> None:
        """One trial. Where this machine was silent for so long that another gave the trial up, its result is too late."""
        mine: list[int] = []

        def noted(trial: optuna.Trial) -> Sequence[float]:
            mine.append(trial.number)
            return objective(trial)

        try:
            self._study.optimize(noted, n_trials=1, catch=(VedetteError, _TwinError))
        except (ValueError, RuntimeError):
            if not mine or not self._trials()[mine[0]].state.is_finished():
                raise

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _twin(self, number: int, choice: Choice) -> int | None:
        """An earlier trial of the same choice that is through or under way."""
        for trial in self._trials(TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING):
            over = trial.state != TrialState.FAIL or "reason" in trial.user_attrs
            if trial.number < number and over and self._choice(trial) == choice:
                return trial.number
        return None

    def _unseen(self) -> list[Choice]:
        """What nobody has tried, is at, or is about to try."""
        known = set()
        for trial in self._trials():
            if trial.state == TrialState.FAIL and "reason" not in trial.user_attrs:
                continue
            known.add(self._choice(trial))
        return [choice for choice in self._space.all() if choice not in known]

    def _choice(self, trial: FrozenTrial) -> Choice | None:
        """What a trial is of: what was proposed for it, or what it was put in the queue with."""
        return self._space.choice({**trial.system_attrs.get("fixed_params", {}), **trial.params})

    def _again(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Puts a trial that died back to be done, or gives it up for good."""
        choice = self._choice(trial)
        if choice is None:
            return  # it died before anything was chosen
        deaths = sum(
            other.state == TrialState.FAIL and not {"reason", "twin"} & set(other.user_attrs)
            and self._choice(other) == choice
            for other in study.get_trials(deepcopy=False)
        )  # fmt: skip
        if deaths < DEATHS:
            study.enqueue_trial(self._space.parameters(choice))
            return
        reason = {"reason": f"the process that ran it ended {deaths} times in the middle"}
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.FAIL,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs=reason,
                system_attrs={"fixed_params": self._space.parameters(choice)},
            )
        )


class _PerTrial(BaseSampler):
    """A sampler seeded anew for each trial, by its number: a search that was killed and goes on proposes what it would
    have proposed."""

    def __init__(self, kind: str, seed: int, trials: int) -> None:
        self._kind = kind
        self._seed = seed
        self._startup = min(STARTUP, max(2, trials // 3))
        self._sampler = self._made(0)

    def _made(self, number: int) -> BaseSampler:
        seed = int(np.random.default_rng([self._seed, number]).integers(2**31))
        if self._kind == "nsga2":
            return NSGAIISampler(seed=seed, population_size=20)
        return TPESampler(seed=seed, n_startup_trials=self._startup)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler = self._made(trial.number)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Any:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> Any:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Nothing: every trial has a seed of its own."""


def shown(url: str) -> str:
    """A database's URL without its password."""
    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return "--storage"


def _first_line(error: Exception, url: str) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (text.replace(url, shown(url)) if url else text)[:300]
