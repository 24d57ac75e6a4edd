"""A script in the place of edgetpu_compiler, which is not to be had here: its options, its files, its log's format."""

from __future__ import annotations

from pathlib import Path

import pytest

LOG = """\
Edge TPU Compiler version 16.0.384591198
Input: model.tflite
Output: model_edgetpu.tflite

Operator                       Count      Status

RELU                           1          Mapped to Edge TPU
DEQUANTIZE                     2          Operation is working on an unsupported data type
QUANTIZE                       1          Operation is otherwise supported, but not mapped due to some unspecified limitation
"""
SAID = """\
Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 12 ms.

Total number of operations: 4
Number of operations that will run on Edge TPU: 1
Number of operations that will run on CPU: 3
"""
SCRIPT = """\
#!/bin/sh
out=.
while [ $# -gt 0 ]; do
  case $1 in
    --out_dir) out=$2; shift ;;
    --show_operations) ;;
    -*) echo "unknown option $1"; exit 1 ;;
    *) model=$1 ;;
  esac
  shift
done
{words}
exit {code}
"""


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, *, log: str = LOG, said: str = SAID, code: int = 0) -> None:
    """A script in the compiler's place; it makes no file where it fails."""
    name = '"$out/$(basename "${model%.tflite}")_edgetpu'
    words = [f"cat <<'END'\n{said}END"]
    if not code:
        words.append(f'(printf TPU; cat "$model") > {name}.tflite"')
        words.append(f"cat > {name}.log\" <<'END'\n{log}END" if log else ":")
    (folder / "bin").mkdir()
    script = folder / "bin" / "edgetpu_compiler"
    script.write_text(SCRIPT.replace("{words}", "\n".join(words)).replace("{code}", str(code)))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
