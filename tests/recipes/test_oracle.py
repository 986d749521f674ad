"""The tables are whole: each weight is in one line, and each line of use."""

import re

import pytest

from recipes.applications import APPLICATION_ROLES, APPLICATIONS
from recipes.backbones import BACKBONES
from recipes.extras import EXTRA_MODELS
from recipes.levels import LEVELS, TIMM, TIMM_WITHOUT_HEAD, depths_by_weight, depths_of
from recipes.roles import ROLES, TABLES, heads_of, roles_of
from recipes.tables import look_up

pytestmark = pytest.mark.one_backend

MISSING = set(APPLICATION_ROLES) - set(APPLICATIONS)
"""What Keras does not build with this backend."""


def test_each_model_has_its_table():
    assert set(BACKBONES) == set(LEVELS)
    assert {*BACKBONES, *APPLICATIONS, *EXTRA_MODELS} == set(TABLES) - MISSING
    assert len(BACKBONES) + len(APPLICATIONS) + len(EXTRA_MODELS) + len(MISSING) == len(TABLES)


@pytest.mark.parametrize("name", BACKBONES)
def test_roles_and_depths_of_a_backbone(name):
    model = BACKBONES[name]()
    paths = {weight.path for weight in model.trainable_weights}
    roles = roles_of(name, model)
    assert set(roles) == paths
    assert set(roles.values()) <= set(ROLES)
    depths = depths_by_weight(name, model)
    assert set(depths_of(name, model)) == paths
    decided = {depth for depth in depths if depth is not None}
    assert decided == set(range(len(decided)))  # no level is left out
    assert len(decided) >= 3 or name == "stable_diffusion_3" or name == "vgg"


@pytest.mark.parametrize("name", EXTRA_MODELS)
def test_roles_of_a_small_model(name):
    model = EXTRA_MODELS[name]()
    roles = roles_of(name, model)
    assert set(roles) == {weight.path for weight in model.trainable_weights}
    assert set(roles.values()) <= set(ROLES)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_roles_and_head_of_a_classifier(name):
    model = APPLICATIONS[name]()
    assert set(roles_of(name, model).values()) <= set(ROLES)
    last = [layer for layer in model.layers if layer.trainable_weights][-1]
    assert heads_of(name, model) == {weight.path for weight in last.trainable_weights}


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
