"""What the documents say is so: links lead somewhere, commands parse, configurations load, figures are the measured ones."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vedette.cli import _parser
from vedette.config import parse_config

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "models/README.md",
]


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", document.read_text())
    missing = [t for t in targets if "://" not in t and not (document.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_configurations_load(document: Path) -> None:
    for block in blocks(document, "toml"):
        assert parse_config(block.encode(), document).pipelines


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_commands_parse(document: Path) -> None:
    parser, _ = _parser()
    text = "\n".join(blocks(document, "")).replace("\\\n", " ")
    commands = [line.split("#")[0].split("|")[0].strip() for line in text.splitlines() if line.startswith("vedette ")]
    for command in commands:
        words = [word.rstrip(".") if word.endswith("...") else word for word in shlex.split(command)[1:]]
        parser.parse_args([word for word in words if word != "&&"])
    assert document.name != "README.md" or document.parent != ROOT or len(commands) >= 6


def test_make_targets_that_documents_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`?make ([a-z][a-z-]+)", "\n".join(d.read_text() for d in DOCUMENTS)))
    missing = {target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)}
    assert not missing & {t for t in named if t.startswith(("bench-", "demo", "test", "build-", "unit", "contracts"))}


def test_the_readmes_figures_are_the_measured_ones() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "bench/readme.py"), "--check"], check=False)
    assert done.returncode == 0, "run bench/readme.py"
