"""λ is the generator's rate under SGD, and nothing under Adam."""

import numpy as np
import pytest

pytestmark = pytest.mark.full


@pytest.mark.parametrize(("optimizer", "same"), [("SGD", "Rule × 10"), ("Adam", "λ = 1")])
def test_what_ten_times_the_loss_does(example, optimizer, same):
    rates = example("gan_learning_rates")
    make = rates.OPTIMIZERS[optimizer]
    ways = [rates.way(make(1e-14), run, steps=20) for run in ("λ = 10", same)]
    assert ways[0].shape == (3, ways[0].shape[1])
    assert np.abs(ways[0][-1] - ways[0][0]).max() > 1e-3
    np.testing.assert_allclose(*ways, rtol=1e-3, atol=2e-4)


def test_the_picture(example, run, tmp_path, monkeypatch):
    """The ways are drawn, and the table says how far they went."""
    rates = example("gan_learning_rates")

    def way(optimizer, run, steps):
        generator_weight, multiplier = rates.RUNS[run]
        return np.arange(steps // 10 + 1)[:, None] * np.ones((1, 4)) * generator_weight * multiplier

    monkeypatch.setattr(rates, "way", way)
    run(rates, "--steps", 30, "--out", tmp_path / "new" / "rates.png")
    assert (tmp_path / "new" / "rates.png").read_bytes().startswith(b"\x89PNG")
