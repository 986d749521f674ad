"""The tier *real*: what a user does, at real size, through the real command.

`FINEGRAIN_REAL` says how much of it is run: `small`, which is the default, `full` or `off`.
"""

from pathlib import Path

import pytest

from real.terminal import SIZE, SIZES, Terminal

if SIZE not in SIZES:
    raise pytest.UsageError(
        f"FINEGRAIN_REAL should be one of {', '.join(SIZES)}. Received: {SIZE!r}"
    )


def pytest_collection_modifyitems(items):
    """Marks what lies in this folder, and skips it where nobody asked for it."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real)
            if SIZE == "off":
                item.add_marker(pytest.mark.skip(reason="FINEGRAIN_REAL=off"))


@pytest.fixture(scope="module")
def terminal(tmp_path_factory, request):
    """A terminal in an empty folder, for all tests of a file."""
    return Terminal(tmp_path_factory.mktemp(request.path.stem))
