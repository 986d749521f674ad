"""The GAN on scikit-learn's digits."""

import json

import pytest

pytestmark = pytest.mark.full


def test_it_learns_and_writes_what_it_says(example, run, tmp_path):
    run(example("gan_digits"), "--epochs", 12, "--folder", tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["real_images"] < results["frechet_distance"] < results["before_training"] / 1.5
    assert results["accuracy"] > 0.95
    assert sum(results["shares"]) == pytest.approx(1)
    assert 1 <= results["digits"] <= 10
    for name in ("samples.png", "curves.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
