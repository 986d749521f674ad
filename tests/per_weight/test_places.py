"""Where weights stand, and their names in the optimizer's stored state."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finegrain.per_weight.places import path_of, stored_name

pytestmark = pytest.mark.one_backend

PATHS = st.text(alphabet="ab/|:%27CAF35", min_size=1)


@given(PATHS)
def test_a_path_comes_back_from_its_name(path):
    assert path_of(stored_name(path)) == path


@given(PATHS)
def test_a_name_opens_no_group_and_names_no_slot(path):
    """HDF5 parts names at slashes, the store parts a path from a slot at a colon."""
    assert not set("/:") & set(stored_name(path))


@pytest.mark.parametrize("path", ["a/b:0", "a|b", "a%3Ab"])
def test_look_alikes_differ(path):
    assert stored_name(path) not in {stored_name(other) for other in ("a:b", "a/b", "a/b|0")}
