"""The examples as modules."""

import gzip
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import drawn

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    """Imports an example by its name, as Python does when it runs one."""
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) in map(str, FOLDER.glob("*.py")):
            del sys.modules[name]


@pytest.fixture
def run(monkeypatch):
    """Runs an example's `main` with these arguments."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, arguments)])
        module.main()

    return run


@pytest.fixture
def data(tmp_path):
    """A folder with 192 images of ten kinds, in the format of MNIST."""
    random = drawn.generator(0)
    digits = np.arange(192, dtype="uint8") % 10
    images = random.integers(0, 60, size=(192, 28, 28)).astype("uint8")
    for image, digit in zip(images, digits, strict=True):
        image[2 * digit + 4 : 2 * digit + 8] = 250
    for name, header, values in (
        ("train-images-idx3-ubyte.gz", 16, images),
        ("train-labels-idx1-ubyte.gz", 8, digits),
    ):
        (tmp_path / name).write_bytes(gzip.compress(bytes(header) + values.tobytes()))
    return tmp_path
