"""The tables are whole: each weight is in one line, and each line of use."""

import pytest

from recipes.applications import APPLICATION_ROLES, APPLICATIONS
from recipes.backbones import BACKBONES
from recipes.extras import EXTRA_MODELS
from recipes.roles import ROLES, TABLES, heads_of, roles_of

pytestmark = pytest.mark.one_backend

MISSING = set(APPLICATION_ROLES) - set(APPLICATIONS)
"""What Keras does not build with this backend."""


def test_each_model_has_its_table():
    assert {*BACKBONES, *APPLICATIONS, *EXTRA_MODELS} == set(TABLES) - MISSING
    assert len(BACKBONES) + len(APPLICATIONS) + len(EXTRA_MODELS) + len(MISSING) == len(TABLES)


@pytest.mark.parametrize("name", [*BACKBONES, *EXTRA_MODELS])
def test_roles(name):
    model = {**BACKBONES, **EXTRA_MODELS}[name]()
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
