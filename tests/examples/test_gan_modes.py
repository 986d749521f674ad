"""How many modes a GAN finds: the counts, and runs that resume."""

import json

import numpy as np
import pytest

import drawn

pytestmark = pytest.mark.full


@pytest.fixture
def modes(example):
    return example("gan_modes")


def test_gaussians_are_counted(modes):
    """All of real samples; only those that have their share of the others."""
    random = drawn.generator(0)
    real = modes.gaussians(random, 5000)
    found, near = modes.count_gaussians(real)
    assert found == 25
    assert near > 0.99
    few = np.concatenate([np.zeros((4990, 2)), np.ones((3, 2)), np.full((7, 2), 0.5)])
    found, near = modes.count_gaussians(few.astype("float32"))
    assert found == 2
    assert near == pytest.approx(4993 / 5000)


def test_it_runs_and_resumes(modes, run, tmp_path):
    arguments = ["gaussians", "--steps", 4, "--seeds", 1, "--folder", tmp_path]
    run(modes, *arguments, "--methods", "R3GAN")
    file = tmp_path / "gaussians-4" / "results.json"
    first = json.loads(file.read_text())
    assert list(first) == ["R3GAN | 0"]
    run(modes, *arguments)
    both = json.loads(file.read_text())
    assert both["R3GAN | 0"] == first["R3GAN | 0"]
    assert list(both) == ["R3GAN | 0", "R3GAN, turns | 0", "non-saturating, R1 | 0"]
    picture = tmp_path / "gaussians-4" / "samples.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_stacked_digits(modes, run, data, tmp_path):
    arguments = ["mnist", data, "--steps", 1, "--seeds", 1, "--methods", "R3GAN"]
    modes.COUNTED["mnist"] = 256
    run(modes, *arguments, "--folder", tmp_path)
    results = json.loads((tmp_path / "mnist-1" / "results.json").read_text())
    assert 1 <= results["R3GAN | 0"]["modes"] <= 256
