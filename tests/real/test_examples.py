"""Examples whose data come with Python, as scripts."""

import pytest

from real.terminal import full_only
from test_docs import ROOT

RUNS = {
    "step_sizes": ["--rates", "1e-3", "--steps", "40"],
    "crf_learning_rate": ["--limit", "200", "--pretrain", "1", "--epochs", "1", "--seeds", "0"],
}


@full_only
@pytest.mark.full
@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs(name, terminal):
    pytest.importorskip("matplotlib")
    out = terminal.folder / f"{name}.png"
    terminal.python(ROOT / "examples" / f"{name}.py", *RUNS[name], "--out", out)
    assert out.exists()  # a picture, or a folder with one
