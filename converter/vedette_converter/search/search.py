"""A whole search: split -> the float original -> trials -> the front, measured once more -> the chosen one."""

from __future__ import annotations

import contextlib
import hashlib
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from vedette.contract.bundle import open_bundle
from vedette.contract.errors import FaultError, PictureError, UserError, VedetteError

from ..evaluate import Accuracy
from ..latency import Timing, machine
from ..lock import alone
from ..pictured import read_truth
from ..pictures import SUFFIXES
from ..progress import Progress, Silent
from ..recipe import RecipeFile, read_recipe
from ..recipe.search import Search
from ..recipe.training import ZooSource
from ..source import read_source
from ..train import data as training_data
from ..train.work import default_folder
from .builder import Builder
from .front import Point, choose, front
from .space import Choice, Space, space_of
from .split import split
from .study import Done, Study, Tried
from .trial import ORIGINAL, Outcome, Setting, build_again, check_sizes, labels_of, measure_front, run_trial
from .written import as_toml, moved, promising

NOISE: Final = 1.1  # times faster before a point is lost for latency, until all are timed in one run
FOREVER_S: Final = 10.0 * 365 * 24 * 3600


class NothingFoundError(FaultError):
    """No network keeps the accuracy that was asked for."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to search, and where everything lies."""

    recipe: Path
    data: Path
    out: Path
    """A folder for what was found."""
    options: Search | None = None
    """In place of the recipe's ``[search]``."""
    source: Path | None = None
    train: Path | None = None
    judge: tuple[Path, ...] = ()
    """To choose by, in place of a share of ``train``."""
    evaluate: tuple[Path, ...] = ()
    """Test pictures: for the front alone, at the end."""
    budget: float = 0.01
    trials: int = 40
    minutes: float | None = None
    jobs: int = 1
    storage: str | None = None
    work: Path | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A network of the front."""

    name: str
    number: int
    choice: Choice
    point: Point
    outcome: Outcome
    timing: Timing
    test: Accuracy | None
    recipe: Path
    """Its recipe's file."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found."""

    name: str
    metric: str
    judged_by: str
    """In words."""
    budget: float
    original: Outcome
    original_timing: Timing
    original_test: Accuracy | None
    front: tuple[Found, ...]
    chosen: Found | None
    bundle: Path | None
    """The chosen network's, built by its own recipe."""
    tried: Tried
    combinations: int
    machine: str
    rounds: int
    notes: tuple[str, ...]
    seconds: float


@dataclass(slots=True)
class _Told:
    """One bar at a time, with what each thread is at beside it."""

    progress: Progress
    advance: Callable[[], None] = lambda: None
    done: int = 0
    words: dict[int, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, step: str, total: int) -> None:
        """A new bar."""
        self.advance, self.done = self.progress.begin(step, total), 0

    def reach(self, done: int) -> None:
        """So far the bar is."""
        with self.lock:
            for _ in range(done - self.done):
                self.advance()
            self.done = max(self.done, done)

    def say(self, job: int, text: str) -> None:
        """What a thread's process is at."""
        self.words[job] = text
        self.progress.note("; ".join(self.words[job] for job in sorted(self.words)))


def search(wanted: Wanted, *, progress: Progress | None = None) -> Result:
    """Searches, writes the front's recipes and the chosen bundle into ``wanted.out``. Stopped, it goes on where it was.

    Raises `UserError` for what the user can mend, `FaultError` where nothing could be built.
    """
    start = time.monotonic()
    deadline = start + (wanted.minutes * 60 if wanted.minutes is not None else FOREVER_S)
    _check(wanted)
    file = read_recipe(wanted.recipe)
    options = wanted.options or file.recipe.search or Search()
    space, notes = space_of(file.recipe, options, wanted.recipe)
    work = wanted.work or default_folder(file.recipe.name)
    _make(wanted.out, "--out")
    _make(work / "search", "--work")
    setting, judged_by, digest = _setting(wanted, file, options, work)
    if not setting.judge:
        notes.append(
            "no labels: instead of accuracy, confident results that differ from the float network's are counted"
        )
        if len(space.sizes) > 1:
            raise UserError(
                "[search] sizes", where=wanted.recipe, expected="labelled pictures to choose by", found="none",
                fix="--judge FOLDER",
            )  # fmt: skip
    told = _Told(progress or Silent())
    with contextlib.ExitStack() as stack:
        if wanted.storage is None:
            lock = work / "search" / f"{digest}.lock"
            busy = "this search is under way in another process"
            stack.enter_context(alone(lock, busy, "wait for it, or share it: --storage URL"))
        url = wanted.storage or f"sqlite:///{(work / 'search' / f'{digest}.db').resolve()}"

        def opened() -> Study:
            return Study(
                url, f"{file.recipe.name}-{digest}", space, sampler=options.sampler, seed=options.seed,
                trials=wanted.trials,
            )  # fmt: skip

        study = opened()
        if wanted.storage is None:
            study.bury()
        builders = [Builder(partial(told.say, job)) for job in range(wanted.jobs)]
        for builder in builders:
            stack.callback(builder.close)
        told.begin("original", 1)
        if len(space.sizes) > 1:
            builders[0].run(check_sizes, setting, space.sizes, trains=file.recipe.trains)
        original = _original(setting, space, builders[0])
        told.reach(1)
        told.begin("trials", min(wanted.trials, sum(1 for _ in space.all())))

        def job(number: int) -> None:
            own = study if number == 0 else opened()
            own.work(
                wanted.trials, deadline, lambda _, choice: _run(setting, space, choice, original, builders[number]),
                lambda tried: told.reach(tried.finished),
            )  # fmt: skip

        if wanted.jobs == 1:
            job(0)
        else:
            with ThreadPoolExecutor(wanted.jobs, thread_name_prefix="search") as threads:
                for running in [threads.submit(job, number) for number in range(wanted.jobs)]:
                    running.result()
        tried = study.tried()
        told.begin("front", 1)
        found = _front(wanted, file, space, setting, original, tried, builders[0])
        chosen = choose([(one, one.point) for one in found.front], wanted.budget)
        bundle = None
        if chosen is not None:
            bundle, said = _ship(wanted, space, setting, chosen, builders[0])
            notes += said
        told.reach(1)
    return replace(
        found, judged_by=judged_by, chosen=chosen, bundle=bundle, notes=tuple(notes),
        seconds=round(time.monotonic() - start, 1),
    )  # fmt: skip


def _check(wanted: Wanted) -> None:
    for name, value, least in (("--trials", wanted.trials, 1), ("--jobs", wanted.jobs, 1)):
        if value < least:
            raise UserError(name, expected=f"{least} or more", found=str(value))
    if wanted.minutes is not None and not wanted.minutes > 0:
        raise UserError("--minutes", expected="above 0", found=f"{wanted.minutes:g}")
    if not 0.0 <= wanted.budget <= 1.0:
        raise UserError("--budget", expected="an accuracy drop, 0..1", found=f"{wanted.budget:g}")


def _make(folder: Path, flag: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError("folder cannot be made", where=folder, found=error.strerror or str(error), fix=flag) from None


def _setting(wanted: Wanted, file: RecipeFile, options: Search, work: Path) -> tuple[Setting, str, str]:
    """What is the same for every trial; what is chosen by, in words; a digest of all that the results depend on."""
    recipe = file.recipe
    labels = labels_of(file)
    labelled = wanted.train or wanted.data
    data, learn, judge = wanted.data, wanted.train, wanted.judge
    for flag, folders in (("--judge", judge), ("--evaluate", wanted.evaluate)):
        read_truth(recipe, folders, labelled, labels, flag)  # that they do not fit is known before hours of trials
    if judge:
        judged_by = "all pictures of " + ", ".join(str(folder) for folder in judge)
    elif recipe.task == "classify" and any((labelled / label).is_dir() for label in labels):
        parts = split(
            training_data.list_labelled(labelled, labels), labels, labelled, options.share, options.seed,
            work / "search" / "split",
        )  # fmt: skip
        learn, judge = parts.learn, (parts.judge,)
        if data.resolve() == labelled.resolve():
            data = parts.learn
        judged_by = f"{options.share:.0%} of the pictures of {labelled}, held back by label"
    else:
        judged_by = f"agreement with the float network on {data}"
    digest = hashlib.sha256()
    own = msgspec.structs.replace(recipe, search=None)
    for struct in (own, options):
        digest.update(msgspec.json.encode(struct, order="deterministic"))
    for folder in (data, *([learn] if learn is not None else []), *judge):
        digest.update(_listed(folder).encode())
    if not isinstance(recipe.source, ZooSource):
        digest.update(read_source(recipe.source, wanted.source, file.resolve).sha256.encode())
    digest.update(file.resolve(recipe.labels.file).read_bytes())
    if recipe.distil is not None and (teacher := recipe.distil.teacher) is not None:
        path = file.resolve(teacher.file)
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise UserError(
                "the network cannot be read", where=path, found=error.strerror or str(error),
                fix="mend [distil.teacher] file",
            ) from None  # fmt: skip
    name = digest.hexdigest()[:12]
    trials = work / "search" / name
    _make(trials, "--work")
    return Setting(file, data, wanted.source, learn, judge, work, trials, options.rounds), judged_by, name


def _listed(folder: Path) -> str:
    """A digest of a folder's pictures: their names and sizes. Of their contents it would take minutes."""
    lines = sorted(
        f"{path.relative_to(folder)} {path.stat().st_size}" for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES or path.name == "instances.json"
    )  # fmt: skip
    if not lines:
        raise PictureError("no pictures", where=folder, expected="files named " + ", ".join(sorted(SUFFIXES)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _original(setting: Setting, space: Space, builder: Builder) -> Outcome:
    """The float network that all are compared with, built once."""
    kept = setting.trials / f"{ORIGINAL}.json"
    if kept.exists():
        with contextlib.suppress(msgspec.DecodeError, OSError):
            return msgspec.json.decode(kept.read_bytes(), type=Outcome)
    recipe = space.original()
    outcome = builder.run(run_trial, setting, recipe, ORIGINAL, trains=recipe.trains)
    half = kept.with_suffix(".part")
    half.write_bytes(msgspec.json.encode(outcome))
    half.replace(kept)
    return outcome


def _run(setting: Setting, space: Space, choice: Choice, original: Outcome, builder: Builder) -> tuple[Point, Outcome]:
    recipe = space.derive(choice)
    outcome = builder.run(run_trial, setting, recipe, choice.words, trains=recipe.trains)
    return Point(original.accuracy - outcome.accuracy, outcome.ratio, outcome.bytes), outcome


def _front(
    wanted: Wanted, file: RecipeFile, space: Space, setting: Setting, original: Outcome, tried: Tried, builder: Builder
) -> Result:
    """The networks that none beats, all timed in one run."""
    if not tried.done:
        raise FaultError(
            "no network could be built" if tried.failed else "the time was over before a network was built",
            found="; ".join(sorted({one.reason for one in tried.failed}))[:600],
        )
    kept = _here(_once([(one, one.point) for one in tried.done]), setting, space, original, builder)
    again = builder.run(
        measure_front, setting, [one.choice.words for one in kept], wanted.evaluate, trains=file.recipe.trains
    )
    first, rest = again[0], again[1:]
    timed = []
    for one, measured in zip(kept, rest, strict=True):
        ratio = measured.timing.p50_ms / first.timing.p50_ms
        timed.append(((one, measured), Point(one.point.drop, ratio, one.point.bytes)))
    found = []
    for (one, measured), point in front(timed):
        recipe = moved(space.derive(one.choice), file, wanted.out)
        promised = promising(recipe, file.recipe.gate, one.outcome, wanted.budget)
        path = wanted.out / f"{recipe.name}.toml"
        _write(path, _command(wanted, setting, path, trains=promised.trains) + as_toml(promised))
        found.append(
            Found(recipe.name, one.number, one.choice, point, one.outcome, measured.timing, measured.test, path)
        )
    return Result(
        file.recipe.name, original.metric, "", wanted.budget, original, first.timing, first.test, tuple(found), None,
        None, tried, sum(1 for _ in space.all()), machine(), setting.rounds, (), 0.0,
    )  # fmt: skip


def _once(items: Sequence[tuple[Done, Point]]) -> list[Done]:
    """The front, the same flatbuffer once: several choices may come to one network."""
    unique: dict[str, Done] = {}
    for one, _ in front(items, slack=NOISE):
        unique.setdefault(one.outcome.sha256, one)
    return list(unique.values())


def _here(kept: list[Done], setting: Setting, space: Space, original: Outcome, builder: Builder) -> list[Done]:
    """Those that another machine built are built here as well, and judged as they come out here."""
    found = []
    for one in kept:
        path = setting.trials / f"{one.choice.words}.tflite"
        if not path.exists() or open_bundle(path).manifest.flatbuffer_sha256 != one.outcome.sha256:
            point, outcome = _run(setting, space, one.choice, original, builder)
            one = replace(one, point=point, outcome=outcome)
        found.append(one)
    return found


def _command(wanted: Wanted, setting: Setting, path: Path, *, trains: bool) -> str:
    """The command that builds a recipe of the front, as a comment before it."""
    words = ["vedette-convert", "build", str(path), "--data", str(setting.data)]
    if setting.source is not None:
        words += ["--source", str(setting.source)]
    if trains and setting.learn is not None:
        words += ["--train", str(setting.learn)]
    for folder in wanted.evaluate or setting.judge:
        words += ["--evaluate", str(folder)]
    return f"# Found by vedette-convert search. To build it:\n#   {shlex.join(words)}\n\n"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError("cannot be written", where=path, found=error.strerror or str(error)) from None


def _ship(
    wanted: Wanted, space: Space, setting: Setting, chosen: Found, builder: Builder
) -> tuple[Path | None, list[str]]:
    """The chosen network's bundle, by its own recipe, and what there is to be said of it."""
    out = chosen.recipe.with_suffix(".tflite")
    file = read_recipe(chosen.recipe)
    try:
        sha256, findings = builder.run(build_again, setting, file, wanted.evaluate, out, trains=file.recipe.trains)
    except VedetteError as error:
        return None, [f"the chosen recipe makes no bundle: {error.line()}"]
    if sha256 != chosen.outcome.sha256:
        findings.append("the bundle's flatbuffer is not the trial's: training is not the same twice")
    return out, findings
