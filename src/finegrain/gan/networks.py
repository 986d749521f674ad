"""The two networks of a GAN: whether they fit together, how they are built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from finegrain._backend import backend
from finegrain._batch import Shape, shapes_fit
from finegrain.gan.roles import Roles, unnamed
from finegrain.routing.overlay import create_weights, is_built


def checked_networks(generator: Any, discriminator: Any) -> None:
    """Check that both networks are layers that can learn.

    Raises:
        TypeError: if a network is no Keras layer.
        ValueError: if one is not trainable.
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


def check_samples(generator: Any, discriminator: Any, roles: Roles) -> None:
    """Check that the generator makes what the discriminator takes.

    A discriminator that pools would take samples of any size without an error.

    Raises:
        ValueError: if the shapes are known, and contradict each other.
    """
    if not getattr(generator, "outputs", None) or not getattr(discriminator, "inputs", None):
        return
    names = roles.samples
    made = roles.made(generator.output if names else generator.outputs[0])
    taken = unnamed(names, discriminator.input, "") if names else discriminator.inputs[0]
    if isinstance(taken, Mapping):
        made = unnamed(names, made if isinstance(made, Mapping) else {}, "The generator's output")
    one, other = (
        [tuple(leaf.shape[1:]) for leaf in keras.tree.flatten(part)] for part in (made, taken)
    )
    if not all(map(shapes_fit, one, other)):
        raise ValueError(
            "The generator should make samples as the discriminator takes them. Received: a "
            f"generator of {', '.join(map(str, one))} and a discriminator of "
            f"{', '.join(map(str, other))}"
        )


def checked_noise(
    latent_dim: Any, noise: Callable[..., Any] | None, generator: Any, roles: Roles
) -> Any:
    """Find the shape of the noise for one sample, or `None` where a function draws it.

    Returns:
        A tuple, or a dict of tuples where the generator takes several kinds of noise.

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
    if roles.noise:
        known = {name: tuple(generator.input[name].shape[1:]) for name in roles.noise}
        if not isinstance(latent_dim, Mapping):
            latent_dim = dict.fromkeys(roles.noise, latent_dim)
        shapes = {name: _checked_shape(latent_dim[name], known[name]) for name in roles.noise}
        return unnamed(roles.noise, shapes, "")
    inputs = getattr(generator, "inputs", None)
    return _checked_shape(latent_dim, tuple(inputs[0].shape[1:]) if inputs else None)


def _checked_shape(latent_dim: Any, known: Shape | None) -> Shape:
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
    if min(shape, default=0) < 1 or not (known is None or shapes_fit(shape, known)):
        wanted = ">= 1" if known is None else known[0] if len(known) == 1 else known
        raise ValueError(
            f"`latent_dim` should be {wanted}, as long as the noise that the generator takes. "
            f"Received: latent_dim={latent_dim!r}"
        )
    return tuple(map(int, shape))


def build_networks(
    generator: Any,
    discriminator: Any,
    latent_shape: Shape | None,
    input_shape: Any,
    roles: Roles,
) -> None:
    """Create the weights of both networks, for the shape of samples or of (samples, labels)."""
    if is_built(generator) and is_built(discriminator):
        return
    is_pair = isinstance(input_shape[0], list | tuple)
    samples, *labels = map(tuple, input_shape if is_pair else [input_shape])
    if latent_shape is None and not is_built(generator):
        raise ValueError(
            "A generator of noise that a function draws should have its weights: begin it with "
            "keras.Input, or call its `build`"
        )
    # Shapes do not tell labels from numbers; integers suit layers that take either.
    labels = keras.KerasTensor(labels[0], "int32") if labels else None
    noise = keras.KerasTensor((samples[0], *(latent_shape or ())))
    inputs = {
        "generator": (generator, roles.of_generator(noise, labels)),
        "discriminator": (
            discriminator,
            roles.of_discriminator(keras.KerasTensor(samples), labels),
        ),
    }
    with backend.outside_of_graphs():
        for name, (network, taken) in inputs.items():
            if is_built(network):
                continue
            try:
                create_weights(network, (taken,), {})
            except Exception as error:  # a layer of the user's can fail in any way
                given = "(samples, labels)" if is_pair else "samples alone"
                raise ValueError(
                    f"The {name} cannot be built for {given}. Begin it with keras.Input; or, if it "
                    "takes labels, give both to `fit` as a pair, fit((samples, labels)). "
                    f"Received: shape {input_shape}"
                ) from error
