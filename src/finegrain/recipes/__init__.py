"""Recipes: rules for the usual ways to fine-tune a model, which can be put together."""

from finegrain.recipes.layer_decay import layer_decay
from finegrain.recipes.muon import muon
from finegrain.recipes.mup import mup
from finegrain.recipes.rates import crf, discriminative, head_first, lora_plus
from finegrain.recipes.roles import roles
from finegrain.recipes.weight_decay import no_weight_decay

__all__ = [
    "crf",
    "discriminative",
    "head_first",
    "layer_decay",
    "lora_plus",
    "muon",
    "mup",
    "no_weight_decay",
    "roles",
]
