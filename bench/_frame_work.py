"""Each stage of one frame again and again, for valgrind to count.

Arguments: MARKS (a library made of ``marks.c``), MODEL, CLIP, PORT of a broker, FRAMES, STATE (a folder). Prints how many
objects were found in the frame.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from _frame import Stages

WARM = 5  # frames before counting


def main() -> None:
    """See the module."""
    marks, model, clip, port, frames_text, state = sys.argv[1:]
    frames = int(frames_text)
    valgrind = ctypes.CDLL(marks)
    stages = Stages(model, clip, int(port), Path(state))
    for name, stage in {**stages.around, "read": stages.read}.items():
        for count in (WARM, frames):  # what "report" leaves in the outbox is what "publish" takes out
            if count == frames:
                valgrind.begin()
            for _ in range(count):
                stage()
        valgrind.end(name.encode())
    print(stages.objects)


if __name__ == "__main__":
    main()
