"""The picture of decay policies: what it draws is what the formulas say."""

import sys

import numpy as np
import pytest

import finegrain as fg
from finegrain._extras import needs
from finegrain.optimizers import AdaXDecay

pytestmark = pytest.mark.one_backend

pytest.importorskip("matplotlib")


def test_the_articles_three():
    """Each begins at β̂ = 0; at the end Adam's stays below 1 and AdaX's does not."""
    left, right = fg.plots.decay_policies().axes
    kept = {line.get_label(): line.get_ydata() for line in left.lines}
    assert len(kept) == 3
    for curve in kept.values():
        np.testing.assert_allclose(curve[0], 0, atol=1e-6)
        assert (np.diff(curve) > -1e-6).all()
    np.testing.assert_allclose(kept["Adam, β₂ = 0.999"][-1], 0.999, rtol=1e-6)
    np.testing.assert_allclose(kept["AdaX, β₂ = 0.0001"][-1], 1.0, atol=1e-7)
    np.testing.assert_allclose(kept["AdaFactor, c = 0.8"][-1], 1 - 1e5**-0.8, rtol=1e-6)
    assert [line.get_label() for line in right.lines] == [*kept, "1 / t"]
    assert (left.get_xscale(), right.get_yscale()) == ("log", "log")


def test_own_policies(tmp_path):
    figure = fg.plots.decay_policies({"mine": AdaXDecay(1e-2)}, steps=50)
    assert figure.axes[0].lines[0].get_xdata()[-1] == 50
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1_000


@pytest.mark.parametrize("steps", [1, 2.5, True])
def test_steps(steps):
    with pytest.raises(ValueError, match="`steps` should be an integer >= 2"):
        fg.plots.decay_policies(steps=steps)


@pytest.mark.parametrize("package", ["matplotlib", "numpy"])
def test_without_matplotlib(package, monkeypatch):
    """What is missing is named with the cure; what matplotlib itself lacks stays as it is."""
    missing = ModuleNotFoundError("No module", name=f"{package}.figure")
    with pytest.raises(ModuleNotFoundError) as caught, needs("matplotlib", "A picture"):
        raise missing
    if package != "matplotlib":
        assert caught.value is missing
        return
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"^A picture needs .*pip install matplotlib\.$"):
        fg.plots.decay_policies()
