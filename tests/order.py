"""Which files xdist's workers have together, and with which they begin."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ELSEWHERE = [
    "tests/optimizers/test_across_backends.py",
    "tests/crf/test_across_backends.py",
    "tests/gan/test_saving.py",
]
"""Files that ask other backends most: one worker has them, and starts each backend once."""

LONGEST = [
    *ELSEWHERE,
    "tests/real/test_segmenter.py",
    "tests/test_cli.py",
    "tests/real/test_bert.py",
    "tests/optimizers/test_distribution.py",
    "tests/real/test_readme.py",
    "tests/tagger/test_segmenter.py",
    "tests/crf/test_loss.py",
    "tests/per_weight/test_holding.py",
    "tests/per_weight/test_nonfinite.py",
    "tests/optimizers/test_contract.py",
    "tests/per_weight/test_run_time.py",
    "tests/routing/test_frozen.py",
    "tests/layers/test_set_learning_rate.py",
]
"""Files to begin with, so that no worker is left with one of them at the end."""


class ByFile(LoadScopeScheduling):
    """Hands out whole files, whose tests share fixtures, in the order of the collection."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        file = file_of(nodeid)
        return "elsewhere" if file in ELSEWHERE else file


def longest_first(items: list[pytest.Item]) -> None:
    """Sorts the tests in place."""
    places = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(file_of(item.nodeid), len(places)))


def file_of(nodeid: str) -> str:
    """The file that a test is in."""
    return nodeid.partition("::")[0]
