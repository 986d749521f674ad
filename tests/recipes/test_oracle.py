"""The tables are whole: each weight is in one line, and each line of use."""

import pytest

from recipes.backbones import BACKBONES
from recipes.roles import BACKBONE_ROLES, ROLES, roles_of

pytestmark = pytest.mark.one_backend


def test_each_backbone_has_its_table():
    assert set(BACKBONES) == set(BACKBONE_ROLES)


@pytest.mark.parametrize("name", BACKBONES)
def test_roles_of_a_backbone(name):
    model = BACKBONES[name]()
    roles = roles_of(name, model)
    assert set(roles) == {weight.path for weight in model.trainable_weights}
    assert set(roles.values()) <= set(ROLES)
