"""docs/security.md names tests; they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "security.md"


def names(tree: ast.AST, before: str = "") -> set[str]:
    """Functions, and methods as ``Class::method``."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            found |= names(node, f"{node.name}::")
        elif isinstance(node, ast.FunctionDef):
            found.add(before + node.name)
    return found


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::([\w:]+))?`", DOCUMENT.read_text())
    assert len(named) > 25
    missing = []
    for file, name in named:
        path = ROOT / file
        if not path.exists() or (name and name not in names(ast.parse(path.read_text()))):
            missing.append(f"{file}::{name}")
    assert missing == []


def test_every_threat_names_a_test() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ") and line.count(" | ") == 2]
    for row in rows:
        assert "`tests/" in row or row.split(" | ")[0] in ("| threat", "| ---"), row
    assert len(rows) > 20
