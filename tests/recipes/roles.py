"""What each weight does, decided by hand from the code of its layer.

| Role | Weights |
|---|---|
| `kernel` | matrices of linear maps: attention, feed-forward, gates, experts, routers, poolers |
| `convolution` | kernels of convolutions of any kind, those that make patches among them |
| `embedding` | tables of tokens, segments, (relative) positions; learned tokens; output tables |
| `bias` | what is added to the outcome of a linear map or a convolution, whatever its shape |
| `norm` | scales and offsets of normalizations, and the scale of LayerScale |
| `recurrent` | kernels between the states of an LSTM or GRU |
| `lora_a`, `lora_b` | the factors of LoRA |
| `transitions` | scores of a CRF for starting, going on, ending |
| `other` | none of these |

Where a model ends in a classifier, the tables also mark its weights as the head: `kernel+head`.
"""

import keras

from recipes.applications import APPLICATION_ROLES
from recipes.backbone_roles import BACKBONE_ROLES
from recipes.extras import EXTRA_ROLES
from recipes.tables import look_up

ROLES = (
    "kernel",
    "convolution",
    "embedding",
    "bias",
    "norm",
    "recurrent",
    "lora_a",
    "lora_b",
    "transitions",
    "other",
)

TABLES = BACKBONE_ROLES | APPLICATION_ROLES | EXTRA_ROLES


def roles_of(name: str, model: keras.Model) -> dict[str, str]:
    """Return the role of each trainable weight of a backbone, by its path."""
    return {path: says.partition("+")[0] for path, says in said_of(name, model).items()}


application_roles = roles_of
"""The same for a model of keras.applications."""

extra_roles = roles_of
"""The same for one of the small models."""


def heads_of(name: str, model: keras.Model) -> set[str]:
    """Return the paths of the trainable weights of the head; none where a model has no head."""
    return {path for path, says in said_of(name, model).items() if says.endswith("+head")}


def said_of(name: str, model: keras.Model) -> dict[str, str]:
    # Weights that share a path are twins, in two towers or two blocks, and have one role.
    paths = [weight.path for weight in model.trainable_weights]
    said = look_up(TABLES[name], paths)
    return {path: says for path, (says, _) in zip(paths, said, strict=True)}
