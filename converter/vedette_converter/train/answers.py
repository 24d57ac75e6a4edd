"""A teacher's answers, asked for once and kept: each look of each picture costs the teacher one pass, however often the
student learns from it. (That student and teacher see the very same look is what counts: Beyer et al., arXiv 2106.05237.)
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vedette.contract.errors import FaultError, UserError

from ..progress import Progress
from ..tensorflow import load_tensorflow
from .data import TrainingBatches, TrainingSamples
from .kept import save_arrays
from .loop import computing_in_bfloat16

BATCH: Final = 250


def ask(
    teacher: Any, batches: TrainingBatches, samples: TrainingSamples, *, keep: Path | None, progress: Progress,
    name: str = "teacher",
) -> NDArray[np.float32]:  # fmt: skip
    """(views, n, ...): the teacher's only output for every look of ``batches``.

    ``samples``: for their arithmetic alone, which is the teacher's own and may differ from the student's. ``keep``: a
    file that holds the answers of every view that is through; what is there already is not asked again.

    Raises `UserError` for a file that is of other answers, `FaultError` where the teacher answers with no numbers.
    """
    tf = load_tensorflow()
    count = len(batches.samples)
    answers = _kept(keep, count)
    advance = progress.begin(name, batches.views * count)
    for _ in range(sum(len(view) for view in answers)):
        advance()
    with computing_in_bfloat16(teacher):
        run = tf.function(lambda x: teacher(x, training=False), reduce_retracing=True)
        for view in range(len(answers), batches.views):
            parts = []
            for start in range(0, count, BATCH):
                index = np.arange(start, min(start + BATCH, count))
                inputs = samples.real(batches.looks(index, view))
                parts.append(np.asarray(tf.cast(run(tf.constant(inputs)), tf.float32)))
                for _ in index:
                    advance()
            answer = np.concatenate(parts)
            if not np.isfinite(answer).all():
                raise FaultError("the teacher answers with no numbers", found="NaN or infinity")
            answers.append(answer)
            if keep is not None:
                _keep(keep, answers)
    return np.stack(answers)


def _kept(path: Path | None, count: int) -> list[NDArray[np.float32]]:
    if path is None or not path.exists():
        return []
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            answers = [np.asarray(arrays[f"view_{n}"], np.float32) for n in range(len(arrays.files))]
        if any(len(answer) != count for answer in answers):
            raise ValueError(f"answers for {len(answers[0])} pictures, not {count}")
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            "the kept answers are not of this training", where=path, found=str(error), fix="delete the file"
        ) from None
    return answers


def _keep(path: Path, answers: list[NDArray[np.float32]]) -> None:
    answered = {f"view_{n}": answer for n, answer in enumerate(answers)}
    save_arrays(path, answered, "the teacher's answers")
