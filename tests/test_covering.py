"""The selection that stands for a product on most backends."""

import pytest

import drawn
from covering import chosen, covering

pytestmark = pytest.mark.one_backend


def split(parameters):
    """(selected, spared) values of parameters."""
    selected, spared = [], []
    for parameter in parameters:
        marks = [mark.name for mark in getattr(parameter, "marks", ())]
        assert marks in ([], ["full"])
        (spared if marks else selected).append(getattr(parameter, "values", parameter))
    return selected, spared


@pytest.mark.parametrize("sizes", [(3, 2), (2, 5), (4, 4), (3, 2, 4), (1, 3)])
def test_every_value_is_selected(sizes):
    """As few combinations as the longest axis has values; the rest is there, and spared."""
    axes = [range(size) for size in sizes]
    selected, spared = split(covering(*axes))
    assert len(selected) == max(sizes)
    for axis, values in zip(axes, zip(*selected, strict=True), strict=True):
        assert set(values) == set(axis)
    combinations = [*selected, *spared]
    assert len(set(combinations)) == len(combinations)
    size = 1
    for axis in axes:
        size *= len(axis)
    assert len(combinations) == size


def test_what_caught_a_fault_is_selected_as_well():
    selected, spared = split(covering("abc", "xy", also=[("a", "y")]))
    assert selected == [("a", "x"), ("a", "y"), ("b", "y"), ("c", "x")]
    assert spared == [("b", "x"), ("c", "y")]
    with pytest.raises(AssertionError, match="no combinations"):
        covering("abc", "xy", also=[("y", "a")])


def test_a_choice_keeps_the_order():
    selected, spared = split(chosen(["a", "b", "c"], ["c", "a"]))
    assert (selected, spared) == (["a", "c"], [("b",)])


def test_streams_differ_and_stay():
    first = drawn.generator(1).normal(size=4)
    assert (first == drawn.generator(1).normal(size=4)).all()
    assert (first != drawn.generator(2).normal(size=4)).all()
    assert drawn.seed(1) != drawn.seed(2)
