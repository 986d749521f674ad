"""What each network of a GAN takes: noise, samples, labels, in order or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

Names = tuple[str, ...]


class Roles:
    """Which inputs of two networks are noise, samples and labels.

    Networks of one or two inputs take them in order. A network whose input is a dict takes them by
    name: what both have is labels; what the generator has alone is noise, and what the
    discriminator has alone, samples.

    Args:
        generator: The network that takes noise and, it may be, labels.
        discriminator: The network that takes samples and, it may be, labels.
        latent_dim: If it is a dict, its names are those of the noise, and whatever else the
            generator takes are labels.
        losses_take_labels: Whether labels that the discriminator does not take are of use.

    Raises:
        ValueError: if there are labels that nobody or only one network could use, or no noise or
            samples among named inputs.
    """

    def __init__(
        self,
        generator: keras.layers.Layer,
        discriminator: keras.layers.Layer,
        latent_dim: Any = None,
        *,
        losses_take_labels: bool = False,
    ) -> None:
        of_generator, of_discriminator = input_names(generator), input_names(discriminator)
        names = set(of_generator) - set(of_discriminator)
        if isinstance(latent_dim, Mapping):
            names = set(latent_dim)
            if not names or not names <= set(of_generator):
                raise ValueError(
                    f"`latent_dim` should be of inputs of the generator, {list(of_generator)}. "
                    f"Received: latent_dim={latent_dim!r}"
                )
        self.noise: Names = tuple(name for name in of_generator if name in names)
        self.labels: Names = tuple(name for name in of_generator if name not in names)
        self.samples: Names = tuple(name for name in of_discriminator if name not in self.labels)
        self.discriminator_inputs: Names = of_discriminator
        self.arities = arity(generator), arity(discriminator)
        for network, wanted, inputs, found in (
            ("generator", "noise", of_generator, self.noise),
            ("discriminator", "samples", of_discriminator, self.samples),
        ):
            if inputs and not found:
                raise ValueError(
                    f"The {network} should take {wanted}: an input that the other network does not "
                    f"have. Received: a generator of {list(of_generator)} and a discriminator of "
                    f"{list(of_discriminator)}"
                )
        self._check_labels(losses_take_labels)

    def _check_labels(self, losses_take_labels: bool) -> None:
        of_generator, of_discriminator = self.takes_labels, self._discriminator_takes_labels
        if of_discriminator and of_generator is False:
            raise ValueError(
                "A generator that does not know the labels cannot make samples of them: give it a "
                f"second input for them. Received: {self._described()}"
            )
        if of_generator and of_discriminator is False and not losses_take_labels:
            raise ValueError(
                "Nobody asks the generator for what its labels say: give the discriminator a "
                "second input for them, or give losses that name `labels`. "
                f"Received: {self._described()}"
            )

    def _described(self) -> str:
        made, judged = self.arities
        return f"a generator of {made} and a discriminator of {judged} inputs"

    @property
    def takes_labels(self) -> bool | None:
        """Whether the generator takes labels; `None` while that is unknown."""
        if self.noise:
            return bool(self.labels)
        return None if self.arities[0] is None else self.arities[0] > 1

    @property
    def _discriminator_takes_labels(self) -> bool | None:
        if self.discriminator_inputs:
            return any(name in self.labels for name in self.discriminator_inputs)
        return None if self.arities[1] is None else self.arities[1] > 1

    def named_noise(self, value: Any) -> Any:
        """Give what is said of the noise its name, where it has one."""
        return named(self.noise, value) or value

    def of_generator(self, noise: Any, labels: Any) -> Any:
        """Make the generator's input."""
        if self.noise:
            return {**named(self.noise, noise), **named(self.labels, labels)}
        return noise if labels is None else [noise, labels]

    def of_discriminator(self, samples: Any, labels: Any) -> Any:
        """Make the discriminator's input."""
        if self.discriminator_inputs:
            values = {**named(self.samples, samples), **named(self.labels, labels)}
            return {name: values[name] for name in self.discriminator_inputs}
        is_wanted = labels is not None and self._discriminator_takes_labels is not False
        return [samples, labels] if is_wanted else samples

    def made(self, outputs: Any) -> Any:
        """Return the generator's outputs as samples."""
        if self.samples and isinstance(outputs, Mapping):
            return unnamed(self.samples, outputs, "The generator")
        return outputs

    def split(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Return the samples and the labels (or `None`) of what `fit` was given."""
        samples, labels = x if isinstance(x, list | tuple) else (x, y)
        if self.samples and isinstance(samples, Mapping):
            missing = [name for name in self.labels if name not in samples]
            given = {**samples, **({} if labels is None else named(tuple(missing), labels))}
            samples = unnamed(self.samples, given, "The data")
            labels = unnamed(self.labels, given, "The data") if self.labels else None
        else:
            labels = self._checked_labels(labels)
        self.check_given(labels)
        return samples, labels

    def labels_for(self, labels: Any, number: int) -> Any:
        """Return as arrays the labels of so many samples to be generated.

        Raises:
            ValueError: if they are of another number, missing, or of no use.
        """
        labels = self._checked_labels(labels)
        if isinstance(labels, Mapping):
            labels = {name: np.asarray(part) for name, part in labels.items()}
        elif labels is not None:
            labels = np.asarray(labels)
        for part in labels.values() if isinstance(labels, Mapping) else [labels]:
            if part is not None and part.shape[:1] != (number,):
                raise ValueError(
                    f"Expected a label for each of {number} samples. Received: shape {part.shape}"
                )
        self.check_given(labels)
        return labels

    def _checked_labels(self, labels: Any) -> Any:
        if not self.labels or labels is None:
            return labels
        if isinstance(labels, Mapping):
            return unnamed(self.labels, labels, "The labels")
        if len(self.labels) > 1:
            raise ValueError(
                f"The labels should be a dict of {list(self.labels)}. "
                f"Received: {type(labels).__name__}"
            )
        return labels

    def check_judged(self, inputs: Any) -> None:
        """Check that the discriminator is given labels if, and only if, it takes them.

        Raises:
            ValueError: if not.
        """
        is_pair, wanted = isinstance(inputs, list | tuple), self._discriminator_takes_labels
        if self.discriminator_inputs or wanted is None or is_pair == wanted:
            return
        raise ValueError(
            "The discriminator takes "
            f"{'(samples, labels)' if wanted else 'samples alone'}. "
            f"Received: {'(samples, labels)' if is_pair else 'samples alone'}"
        )

    def check_given(self, labels: Any) -> None:
        """Check that there are labels where they are needed, and none elsewhere.

        Raises:
            ValueError: if not.
        """
        if labels is not None and self.takes_labels is False:
            raise ValueError(
                "These networks take samples alone: fit without labels, or give both a second "
                "input for them. Received: labels beside the samples"
            )
        if labels is None and self.takes_labels:
            raise ValueError(
                "These networks take labels, too: fit on (samples, labels). Received: samples alone"
            )


def named(names: Sequence[str], value: Any) -> dict[str, Any]:
    """Give the value its name, or choose the named ones of several."""
    if value is None or not names:
        return {}
    if len(names) == 1 and not isinstance(value, Mapping):
        return {names[0]: value}
    return {name: value[name] for name in names}


def unnamed(names: Sequence[str], values: Any, what: str) -> Any:
    """Return the value of the one name, or a dict of those of several.

    Raises:
        ValueError: if one is missing.
    """
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"{what} should have {list(names)}. Received: {list(values)}")
    return values[names[0]] if len(names) == 1 else {name: values[name] for name in names}


def input_names(network: Any) -> Names:
    """Return the names of the network's inputs if it takes a dict."""
    structure = getattr(network, "input", None) if getattr(network, "inputs", None) else None
    return tuple(structure) if isinstance(structure, Mapping) else ()


def arity(network: keras.layers.Layer) -> int | None:
    """Count the inputs of the network, or return `None` while their number is unknown."""
    inputs = getattr(network, "inputs", None)
    if inputs:
        return len(inputs)
    shape = (network.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, list | tuple) or not shape:
        return None
    return len(shape) if isinstance(shape[0], list | tuple) else 1
