"""The tables are whole, and say what timm says. (Each weight is in one line, or they raise.)"""

import re

import pytest

from recipes.applications import APPLICATION_ROLES, APPLICATIONS
from recipes.backbones import BACKBONES
from recipes.extras import EXTRA_MODELS
from recipes.levels import LEVELS, TIMM, TIMM_WITHOUT_HEAD, depths_by_weight, depths_of
from recipes.roles import ROLES, TABLES
from recipes.tables import look_up

pytestmark = pytest.mark.one_backend

MISSING = set(APPLICATION_ROLES) - set(APPLICATIONS)
"""What Keras does not build with this backend."""


def test_each_model_has_its_table():
    assert set(BACKBONES) == set(LEVELS)
    assert {*BACKBONES, *APPLICATIONS, *EXTRA_MODELS} == set(TABLES) - MISSING
    assert len(BACKBONES) + len(APPLICATIONS) + len(EXTRA_MODELS) + len(MISSING) == len(TABLES)


def test_each_role_occurs():
    lines = [line.split() for table in TABLES.values() for line in table.splitlines()]
    assert {line[0].partition("+")[0] for line in lines if line} == set(ROLES)


def test_twins_of_unequal_depth():
    model = BACKBONES["clip_uneven"]()
    assert depths_of("clip_uneven", model)["encoder_block_0/dense_1/kernel"] is None
    depths = zip(model.trainable_weights, depths_by_weight("clip_uneven", model), strict=True)
    assert [d for w, d in depths if w.path == "encoder_block_0/dense_1/kernel"] == [3, 2]


def test_depths_are_those_of_timm():
    model = BACKBONES["vit"]()
    for path, depth in depths_of("vit", model).items():
        (scale,) = [s for pattern, s in TIMM.items() if re.fullmatch(pattern, path)]
        (headless,) = [s for pattern, s in TIMM_WITHOUT_HEAD.items() if re.fullmatch(pattern, path)]
        assert headless == scale / 0.75
        if not path.startswith("vit_encoder/ln/"):
            assert scale == 0.75**depth


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("kernel dense/kernel", "Not in one line"),
        ("kernel dense/kernel\nbias dense/(bias|kernel)", "Not in one line"),
        ("kernel dense/kernel\nbias dense/bias\nnorm norm_#/gamma", "match no weight"),
    ],
)
def test_a_table_with_a_gap_an_overlap_or_an_idle_line(table, says):
    with pytest.raises(LookupError, match=says):
        look_up(table, ["dense/kernel", "dense/bias"])
