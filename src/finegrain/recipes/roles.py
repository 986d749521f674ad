"""What the weights of a model are: kernels, biases, embeddings, and so on, by their layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

import keras

from finegrain.recipes.structure import Part, parts_of, sublayers, weights_of
from finegrain.rules.selection import Selector, checked_selectors, select, weight_path

Role = Literal[
    "kernel",
    "convolution",
    "recurrent",
    "embedding",
    "bias",
    "norm",
    "scale",
    "lora_a",
    "lora_b",
    "transitions",
]
"""What a weight may be; `roles` says what each of them means."""

_CONVOLUTIONS = tuple(
    getattr(keras.layers, f"{kind}{axes}D{transposed}")
    for kind, dimensions, suffixes in (
        ("Conv", (1, 2, 3), ("", "Transpose")),
        ("DepthwiseConv", (1, 2), ("",)),
        ("SeparableConv", (1, 2), ("",)),
        ("ConvLSTM", (1, 2, 3), ("",)),
    )
    for axes in dimensions
    for transposed in suffixes
)
_NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)

# What layers call their weights, in Keras, KerasHub and most code on them: the first that fits.
_NAMES: tuple[tuple[Role, str], ...] = (
    ("embedding", r".*(embed(ding)?s?|_emb|token|tokens|_encoding|_bias_table|_query)"),
    ("bias", r"(.*_)?bias"),
    ("recurrent", r"recurrent_kernel"),
    ("convolution", r"(.*_)?conv\d?d?_kernel|(depthwise|pointwise)_kernel"),
    ("kernel", r"(.*_)?(kernel|dense|proj|projection)"),
    ("embedding", r"(pos|position|rel_pos|query)_.*"),
    ("scale", r"(.*_)?(gamma|scale|temperature)|lambda\d*"),
    ("norm", r"beta"),
    ("transitions", r"transitions|start|end"),
)
# Weights of layers of Keras and KerasHub whose names say nothing: (class, name, role).
_OF_CLASSES: tuple[tuple[str, str, Role], ...] = (
    (r".*LayerScale.*", r".*", "scale"),
    (r"Attention", r"concat_score_weight", "scale"),
    (r"PReLU", r"alpha", "scale"),
    (r"GptOssAttention", r"sinks", "bias"),
    (r".*GatedDeltaNet", r"A_log", "scale"),
    (r".*MultiHeadAttentionPooling", r"variable(_\d+)?", "embedding"),
    (r"RWKV7.*", r"[wavg][12]", "kernel"),
    (r"RWKV7.*", r"[wav]0", "bias"),
    (r"RWKV7.*", r"x_[a-z]|[krk]_[a-z]|time_mix_.*", "scale"),
)


def roles(model: keras.Model, extra: Mapping[Selector, str] | None = None) -> dict[str, Role]:
    """Find out what each weight of a model is, by the layer that it belongs to.

    - `"kernel"`: the matrix of a linear map: of dense layers, attention, experts;
    - `"convolution"`: the kernel of a convolution, depthwise and separable ones too;
    - `"recurrent"`: what maps the state of a recurrent layer to its next one;
    - `"embedding"`: tables of tokens, positions, segments; class and mask tokens; biases for
      relative positions;
    - `"bias"`: what is added after a linear map or a convolution;
    - `"norm"`: scale and offset of a normalization layer;
    - `"scale"`: any other learned factor: of residual branches, of logits;
    - `"lora_a"`, `"lora_b"`: the factors of a low-rank update;
    - `"transitions"`: the scores that a CRF has for pairs of tags.

    The number of its axes does not matter: in attention the biases of queries have two, and their
    kernels three.

    Args:
        model: A built model.
        extra: {selector: role} for weights of a kind that is not known here, or that is known for
            another; a selector is what a `Rule` takes.

    Returns:
        {path: role} for each weight that learns unless it is frozen, in the model's order.

    Raises:
        ValueError: if the model has no weights yet, or a weight of an unknown kind; a role of
            `extra` is not one of those above.

    Example:
    >>> import keras, finegrain as fg
    >>> model = keras.Sequential([
    ...     keras.Input((5,)), keras.layers.Embedding(9, 4, name="embed"),
    ...     keras.layers.LayerNormalization(name="norm"), keras.layers.Dense(2, name="head")])
    >>> for path, role in fg.recipes.roles(model).items():
    ...     print(path.partition("/")[2], role)
    embed/embeddings embedding
    norm/gamma norm
    norm/beta norm
    head/kernel kernel
    head/bias bias
    """
    return {weight_path(found.weight): found.role for found in weights_with_roles(model, extra)}


class Found(NamedTuple):
    """A weight and what it is."""

    weight: keras.Variable
    role: Role
    layer: Any
    """The layer that made it."""


def weights_with_roles(
    model: keras.Model, extra: Mapping[Selector, str] | None = None
) -> list[Found]:
    """List what `roles` finds for each weight; weights may share a path."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"This recipe takes a keras.Model. Received: {model!r}")
    owners = dict(_owners(model))
    weights = [weight for weight in model.weights if id(weight) in owners]
    if not weights:
        raise ValueError(
            "This recipe needs a model with weights: build it first, for example by calling it on "
            f"data. Received: {model!r}"
        )
    named = _named(weights, extra or {})
    found = [named.get(id(weight)) or _role(weight, owners[id(weight)]) for weight in weights]
    unknown = [weight_path(w) for w, role in zip(weights, found, strict=True) if role is None]
    if unknown:
        raise ValueError(
            f"What is the role of {unknown[:6]}{' …' if len(unknown) > 6 else ''}? It is not known "
            f"for such layers. Say it with `roles={{{unknown[0].rpartition('/')[2] + '$'!r}: "
            f"'scale'}}`, or any other of {list(get_args(Role))}."
        )
    layers = [owners[id(weight)] for weight in weights]
    return list(map(Found, weights, found, layers))  # type: ignore[arg-type]


def _owners(model: keras.Model) -> Iterator[tuple[int, Any]]:
    """Yield (id of a weight, the layer that made it) for all weights that were made to learn."""
    for layer in model._flatten_layers():
        for weight in layer._trainable_variables:
            yield id(weight), layer


def _named(weights: list[Any], extra: Mapping[Selector, str]) -> dict[int, str]:
    found: dict[int, str] = {}
    if not isinstance(extra, Mapping):
        raise TypeError(
            "`roles` should be {selector: role}, as in {'openness$': 'scale'}. "
            f"Received: roles={extra!r}"
        )
    for selector, role in extra.items():
        if role not in get_args(Role):
            raise ValueError(
                f"A role should be one of {list(get_args(Role))}. "
                f"Received: {{{selector!r}: {role!r}}}"
            )
        (checked,) = checked_selectors(selector)
        answers = select(checked, weights)
        if not any(answers):
            raise ValueError(
                f"`roles` names {selector!r}, which no weight of the model goes by. "
                f"Received: roles={dict(extra)!r}"
            )
        found |= {id(w): role for w, meant in zip(weights, answers, strict=True) if meant}
    return found


def _role(weight: Any, layer: Any) -> Role | None:
    """Tell the role of a weight from its layer's class and what the layer calls it."""
    name = weight.name
    if re.fullmatch("lora_.*_[ab]", name):
        return "lora_a" if name.endswith("_a") else "lora_b"
    if isinstance(layer, _NORMS) or "norm" in type(layer).__name__.lower():
        return "norm"
    if isinstance(layer, keras.layers.Embedding):
        return "embedding"
    for kind, pattern, role in _OF_CLASSES:
        if re.fullmatch(kind, type(layer).__name__) and re.fullmatch(pattern, name):
            return role
    for role, pattern in _NAMES:
        if re.fullmatch(pattern, name):
            return "convolution" if role == "kernel" and _convolves(layer) else role
    return None


def _convolves(layer: Any) -> bool:
    # The cell of a ConvLSTM is no public class; it has the strides of its convolution.
    return isinstance(layer, _CONVOLUTIONS) or isinstance(getattr(layer, "strides", None), tuple)


def heads(model: keras.Model) -> list[Any]:
    """Find the layers that put out what a model is trained for.

    These are the last layers with kernels before its outputs, if they hold no other layers, as
    blocks do, and the tables by which embeddings put tokens out. Those of a KerasHub backbone do
    not count: what it puts out goes on elsewhere.
    """
    parts = parts_of(model)
    is_followed: dict[Any, bool] = dict.fromkeys(parts, False)
    for part in reversed(parts):
        for earlier in part.before:
            # An embedding behind a map is tied to the output, which it is the head of.
            is_followed[earlier] |= is_followed[part] or _maps(part.owner, also=("embedding",))
    apart = {
        id(weight)
        for layer in model._flatten_layers()
        if any(kind.__name__ == "Backbone" for kind in type(layer).__mro__)
        for weight in layer.weights
    }
    found = [
        part.owner
        for part in parts
        if not is_followed[part]
        and not any(id(weight) in apart for weight in weights_of(part.owner))
        and (_is_output_table(part) or (_maps(part.owner) and not sublayers(part.owner)))
    ]
    return list({id(owner): owner for owner in found}.values())


def _is_output_table(part: Part) -> bool:
    return isinstance(part.owner, keras.Variable) and part.owner.name == "reverse_embeddings"


def _maps(layer: Any, also: tuple[Role, ...] = ()) -> bool:
    """Return whether a layer holds a kernel of whatever kind, be it quantized."""
    if isinstance(layer, keras.Variable):
        return bool(also)
    kinds = ("kernel", "convolution", "recurrent", None, *also)
    return any(
        isinstance(own, (keras.layers.Dense, keras.layers.EinsumDense))
        or any(_role(weight, own) in kinds for weight in own._trainable_variables)
        for own in layer._flatten_layers()
    )


def kernel_axes(weight: Any, layer: Any) -> str:
    """Return what each axis of a kernel stands for.

    `i` are its inputs, `o` its outputs, `b` the maps that it holds side by side (as those of
    experts, or of heads), `k` the places of a convolution.
    """
    axes = len(weight.shape)
    if isinstance(layer, _CONVOLUTIONS) or _convolves(layer):
        if "Depthwise" in type(layer).__name__ or weight.name == "depthwise_kernel":
            return "k" * (axes - 2) + "bo"
        order = "oi" if "Transpose" in type(layer).__name__ else "io"
        return "k" * (axes - 2) + order
    if isinstance(layer, keras.layers.EinsumDense) and layer.kernel is weight:
        inputs, kernel, outputs = re.split(",|->", layer.equation.replace(" ", ""))
        kinds = {(True, False): "i", (False, True): "o", (True, True): "b"}
        return "".join(kinds[label in inputs, label in outputs] for label in kernel)
    return "b" * (axes - 2) + "io"
