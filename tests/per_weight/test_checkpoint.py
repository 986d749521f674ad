"""Names of weights in the optimizer's stored state."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finegrain.per_weight.checkpoint import key, path_of

pytestmark = pytest.mark.one_backend

PATHS = st.text(alphabet="ab/|:%27CAF35", min_size=1)


@given(PATHS)
def test_a_path_comes_back_from_its_key(path):
    assert path_of(key(path)) == path


@given(PATHS)
def test_a_key_opens_no_group_and_names_no_slot(path):
    """HDF5 parts names at slashes, the store parts a path from a slot at a colon."""
    assert not set("/:") & set(key(path))


@pytest.mark.parametrize("path", ["a/b:0", "a|b", "a%3Ab"])
def test_look_alikes_differ(path):
    assert key(path) not in {key(other) for other in ("a:b", "a/b", "a/b|0")}
