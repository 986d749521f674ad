"""The two networks of a GAN: what they take, how they are built."""

from __future__ import annotations

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


def checked_latent_dim(latent_dim: Any, generator: Any, discriminator: Any) -> int:
    """Find the length of the noise, and check that the two networks fit together.

    Raises:
        TypeError: if a network is no Keras layer.
        ValueError: if one network alone takes labels, or the length is unknown or another.
    """
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        if not isinstance(network, keras.layers.Layer):
            raise TypeError(f"`{name}` should be a Keras model. Received: {name}={network!r}")
    arities = arity(generator), arity(discriminator)
    if None not in arities and arities[0] != arities[1]:
        raise ValueError(
            "Labels go to both networks or to none: give both one input, or both two. "
            f"Received: a generator of {arities[0]} and a discriminator of {arities[1]} inputs"
        )
    inputs = getattr(generator, "inputs", None)
    known = inputs[0].shape[-1] if inputs else None
    if latent_dim is None:
        latent_dim = known
    if latent_dim is None:
        raise ValueError(
            "The length of the noise is unknown: give `latent_dim`. Received: latent_dim=None"
        )
    if isinstance(latent_dim, bool) or not isinstance(latent_dim, int | np.integer):
        raise TypeError(f"`latent_dim` should be an integer. Received: latent_dim={latent_dim!r}")
    if latent_dim < 1 or (known is not None and latent_dim != known):
        raise ValueError(
            f"`latent_dim` should be {'>= 1' if known is None else known}, as long as the noise "
            f"that the generator takes. Received: latent_dim={latent_dim!r}"
        )
    return int(latent_dim)


def build_networks(generator: Any, discriminator: Any, latent_dim: int, input_shape: Any) -> None:
    """Create the weights of both networks, for the shape of samples or of (samples, labels)."""
    is_pair = isinstance(input_shape[0], list | tuple)
    samples, *labels = map(tuple, input_shape if is_pair else [input_shape])
    # Shapes do not tell labels from numbers; integers suit layers that take either.
    labels = [keras.KerasTensor(shape, "int32") for shape in labels]
    with backend.outside_of_graphs():
        for network, shape in ((generator, (samples[0], latent_dim)), (discriminator, samples)):
            if not is_built(network):
                create_weights(network, (inputs_of(keras.KerasTensor(shape), *labels),), {})
