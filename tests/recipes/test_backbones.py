"""The recipes beside tables made by hand: roles and levels of what KerasHub and Keras ship."""

import re

import keras
import pytest

import finegrain as fg
from finegrain.recipes.layer_decay import levels_of_model
from finegrain.recipes.roles import heads
from finegrain.recipes.structure import weights_of
from recipes.applications import APPLICATIONS
from recipes.backbones import BACKBONES
from recipes.extras import EXTRA_MODELS
from recipes.levels import TIMM, depths_by_weight
from recipes.roles import heads_of, roles_of

pytestmark = pytest.mark.one_backend

ALIKE = {("norm", "scale"), ("other", "scale"), ("other", "bias")}
"""What the tables call otherwise: the scale of LayerScale a norm's, and what is none of their kinds
`other`. No recipe treats them in two ways."""

CNN = "the layers of a block before its stride"
ELSEWHERE = {
    "pali_gemma": "images come before the blocks of the language model, which take them in",
    "cspnet": "the stem works at a resolution of its own",
    "mobilenet_v5": CNN,
    "xception": CNN,
}
"""Where the tables and the recipe count in another way, and in what."""


def differences(model, by_hand):
    found = fg.recipes.roles(model)
    return {
        path: (role, found.get(path))
        for path, role in by_hand.items()
        if role != found.get(path) and (role, found.get(path)) not in ALIKE
    }


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone(name):
    model = BACKBONES[name]()
    assert differences(model, roles_of(name, model)) == {}
    assert heads(model) == []
    levels = levels_of_model(model)[::-1]
    depth_of = {
        id(weight): depth
        for depth, owners in enumerate(levels)
        for owner in owners
        for weight in weights_of(owner)
    }
    by_hand = depths_by_weight(name, model)
    decided = {depth for depth in by_hand if depth is not None}
    assert decided == set(range(len(decided)))  # the tables leave no level out
    wrong = [
        (weight.path, depth_of[id(weight)], depth)
        for weight, depth in zip(model.trainable_weights, by_hand, strict=True)
        if depth not in (None, depth_of[id(weight)])
    ]
    assert not wrong or name in ELSEWHERE
    assert wrong or name not in ELSEWHERE


@pytest.mark.parametrize("name", EXTRA_MODELS)
def test_a_small_model(name):
    model = EXTRA_MODELS[name]()
    by_hand = roles_of(name, model)
    assert differences(model, by_hand) == {}
    if heads_of(name, model):
        head = {
            weight.path
            for owner in heads(model)
            for weight in weights_of(owner)
            if weight.trainable
        }
        assert head == heads_of(name, model)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_classifier(name):
    model = APPLICATIONS[name]()
    assert differences(model, roles_of(name, model)) == {}
    head = {
        weight.path for owner in heads(model) for weight in weights_of(owner) if weight.trainable
    }
    assert head == heads_of(name, model)
    levels = levels_of_model(model)
    assert 3 <= len(levels) <= 7
    assert heads(model)[0] in levels[-1]


def test_as_timm():
    """Each scale of a ViT is timm's, but of its last norm, which BEiT has with the head."""
    backbone = BACKBONES["vit"]()
    inputs = backbone.input
    outputs = keras.layers.Dense(3, name="head")(backbone.output)
    model = keras.Model(inputs, outputs)
    rows = fg.PerWeight("sgd", fg.layer_decay(model, 0.75)).describe(model).to_dicts()
    seen = set()
    for row in rows:
        scales = {s for pattern, s in TIMM.items() if re.fullmatch(pattern, row["path"])}
        for scale in scales:
            multiplier = row["learning_rate_multiplier"]
            seen.add(multiplier)
            last_norm = re.search(r"(^|/)ln/(gamma|beta)$", row["path"])
            assert multiplier == pytest.approx(1.0 if last_norm else scale), row["path"]
    assert len(seen) == 5
