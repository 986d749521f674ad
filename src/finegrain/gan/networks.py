"""The two networks of a GAN: what they take, how they are built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from finegrain._backend import backend
from finegrain.routing.overlay import create_weights, is_built


def inputs_of(samples: Any, labels: Any = None) -> Any:
    """Make the input of a network: samples (or noise), or a list of these and their labels."""
    return samples if labels is None else [samples, labels]


def arity(network: keras.layers.Layer) -> int | None:
    """Count the inputs of the network, or return `None` while their number is unknown."""
    inputs = getattr(network, "inputs", None)
    if inputs:
        return len(inputs)
    shape = (network.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, list | tuple) or not shape:
        return None
    return len(shape) if isinstance(shape[0], list | tuple) else 1


def checked_networks(generator: Any, discriminator: Any) -> None:
    """Check that the two networks fit together.

    Raises:
        TypeError: if a network is no Keras layer.
        ValueError: if one network alone takes labels, or one is not trainable.
    """
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        if not isinstance(network, keras.layers.Layer):
            raise TypeError(f"`{name}` should be a Keras model. Received: {name}={network!r}")
        if not network.trainable:
            raise ValueError(
                f"The {name} would never learn. Each loss reaches its own network alone, so that "
                "nothing has to be frozen for the other's sake: leave `trainable` as it is. "
                f"Received: {name}.trainable=False"
            )
    arities = arity(generator), arity(discriminator)
    if None not in arities and arities[0] != arities[1]:
        raise ValueError(
            "Labels go to both networks or to none: give both one input, or both two. "
            f"Received: a generator of {arities[0]} and a discriminator of {arities[1]} inputs"
        )


def check_samples(generator: Any, discriminator: Any) -> None:
    """Check that the generator makes what the discriminator takes.

    A discriminator that pools would take samples of any size without an error.

    Raises:
        ValueError: if the shapes are known, and contradict each other.
    """
    made = getattr(generator, "outputs", None)
    taken = getattr(discriminator, "inputs", None)
    if not made or not taken:
        return
    pairs = zip(made[0].shape[1:], taken[0].shape[1:], strict=False)
    same_rank = len(made[0].shape) == len(taken[0].shape)
    if not same_rank or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise ValueError(
            "The generator should make samples as the discriminator takes them. Received: a "
            f"generator of {tuple(made[0].shape[1:])} and a discriminator of "
            f"{tuple(taken[0].shape[1:])}"
        )


def checked_noise(
    latent_dim: Any, noise: Callable[..., Any] | None, generator: Any
) -> tuple[int, ...] | None:
    """Find the shape of the noise for one sample, or `None` where a function draws it.

    Raises:
        TypeError: if `latent_dim` is no integer or tuple of integers, or `noise` no function.
        ValueError: if the shape is unknown, or not the generator's.
    """
    if noise is not None:
        if not callable(noise):
            raise TypeError(f"`noise` should be a function. Received: noise={noise!r}")
        if latent_dim is not None:
            raise ValueError(
                "`noise` draws noise of whatever shape: leave `latent_dim` out. "
                f"Received: latent_dim={latent_dim!r}"
            )
        return None
    inputs = getattr(generator, "inputs", None)
    known = tuple(inputs[0].shape[1:]) if inputs else None
    if latent_dim is None:
        if known is None or None in known:
            raise ValueError(
                "The length of the noise is unknown: give `latent_dim`. Received: latent_dim=None"
            )
        return known
    shape = tuple(latent_dim) if isinstance(latent_dim, list | tuple) else (latent_dim,)
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, int | np.integer):
            raise TypeError(
                "`latent_dim` should be an integer, or a tuple of integers. "
                f"Received: latent_dim={latent_dim!r}"
            )
    fits = known is None or (
        len(known) == len(shape)
        and all(want in (None, size) for want, size in zip(known, shape, strict=True))
    )
    if min(shape, default=0) < 1 or not fits:
        wanted = ">= 1" if known is None else known[0] if len(known) == 1 else known
        raise ValueError(
            f"`latent_dim` should be {wanted}, as long as the noise that the generator takes. "
            f"Received: latent_dim={latent_dim!r}"
        )
    return tuple(map(int, shape))


def build_networks(
    generator: Any, discriminator: Any, latent_shape: tuple[int, ...] | None, input_shape: Any
) -> None:
    """Create the weights of both networks, for the shape of samples or of (samples, labels)."""
    is_pair = isinstance(input_shape[0], list | tuple)
    samples, *labels = map(tuple, input_shape if is_pair else [input_shape])
    if latent_shape is None and not is_built(generator):
        raise ValueError(
            "A generator of noise that a function draws should have its weights: begin it with "
            "keras.Input, or call its `build`"
        )
    # Shapes do not tell labels from numbers; integers suit layers that take either.
    labels = [keras.KerasTensor(shape, "int32") for shape in labels]
    shapes = {generator: (samples[0], *(latent_shape or ())), discriminator: samples}
    with backend.outside_of_graphs():
        for network, shape in shapes.items():
            if not is_built(network):
                create_weights(network, (inputs_of(keras.KerasTensor(shape), *labels),), {})
