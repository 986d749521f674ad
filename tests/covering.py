"""Products of which one backend, or `make test-all`, has the whole, and the others a selection.

What the selection spares bears the mark `full`.
"""

from collections.abc import Collection, Iterable
from itertools import cycle, islice, product
from typing import Any

import pytest


def chosen(values: Iterable[Any], selection: Collection[Any]) -> list[Any]:
    """`values` as parameters; those outside `selection` are marked `full`."""
    return [
        value if value in selection else pytest.param(value, marks=pytest.mark.full)
        for value in values
    ]


def covering(*axes: Iterable[Any], also: Collection[tuple[Any, ...]] = ()) -> list[Any]:
    """The product of `axes` as parameters; what a covering selection spares is marked `full`.

    The selection goes along all axes at a time and begins shorter ones anew, so that it has every
    value of each. `also` adds combinations to it: those that have caught a fault before.
    """
    columns = [list(axis) for axis in axes]
    rows = zip(*(islice(cycle(c), max(map(len, columns))) for c in columns), strict=True)
    selection = [*rows, *also]
    combinations = list(product(*columns))
    unknown = [values for values in selection if values not in combinations]
    assert not unknown, f"no combinations of the axes: {unknown}"
    return [
        pytest.param(*values, marks=() if values in selection else pytest.mark.full)
        for values in combinations
    ]


def mark_the_unselected(items: Iterable[pytest.Item], *, complete: bool) -> None:
    """Marks `full` what `@pytest.mark.selected(...)` leaves out.

    Args:
        items: The tests.
        complete: Whether all cases of a test are among them, so that an unknown one is a mistake.
    """
    unseen: dict[str, set[str]] = {}
    for item in items:
        mark = item.get_closest_marker("selected")
        if mark is None:
            continue
        case = item.name.partition("[")[2].removesuffix("]")
        unseen.setdefault(item.nodeid.partition("[")[0], set(mark.args)).discard(case)
        if case not in mark.args:
            item.add_marker(pytest.mark.full)
    unknown = {function: cases for function, cases in unseen.items() if cases}
    if complete and unknown:
        raise pytest.UsageError(f"`selected` names cases that are not there: {unknown}")
