"""AdaptiveAugmentation: changes samples as often as the discriminator needs it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from finegrain._batch import along_batch, batch_size, shapes_fit
from finegrain._checks import checked_number
from finegrain.game.checks import serialized

Tensor = Any


@keras.saving.register_keras_serializable(package="finegrain")
class AdaptiveAugmentation(keras.layers.Layer):
    r"""Changes each sample with a probability that follows how far a discriminator overfits.

    $$p \leftarrow \min\big(1, \max\big(0,\; p + \tfrac{n}{N}\,
      \text{sign}(r - r_\text{target})\big)\big), \qquad
      r = \mathrm{E}\,\text{sign}\, D(x)$$

    A discriminator that knows its few real samples by heart gives all of them scores above 0, and
    $r$ nears 1. Then more samples, real and generated, are changed before they are judged. With
    little data a GAN learns longer for it. Give it to `finegrain.models.GAN(augment=...)`, which
    reports $p$ as `augmentation`.

    Args:
        augmentations: A layer or function of samples, or a list of these. Each changes a sample
            with the probability $p$, independently of the others, and should pass gradients
            through. Keras's layers for images do. Functions are saved by name: register yours.
        target: $r_\text{target}$ in [0, 1). A lower one means more augmentation.
        ramp: $N > 0$, the number of samples within which $p$ can go from 0 to 1; $n$ is the size
            of the batch.
        seed: Of which samples are changed, an integer.
        **kwargs: Keras's own, such as `name`.

    Input: a tensor whose first axis is the batch, or a list, tuple or dict of these, which are
    changed together. Output: the like. Only training changes anything.

    Raises:
        TypeError: if an augmentation cannot be called.
        ValueError: for a number out of its range.

    Example:
    >>> import keras, finegrain as fg
    >>> flip = fg.layers.AdaptiveAugmentation(lambda x: -x, ramp=4)
    >>> scores = keras.ops.ones((2, 1))
    >>> flip.update(scores)  # all real samples are recognized: 2 / 4 more
    >>> print(float(flip.probability))
    0.5
    >>> flip.update(scores)
    >>> print(keras.ops.convert_to_numpy(flip(scores, training=True)))
    [[-1.]
     [-1.]]

    References:
        Tero Karras et al., Training generative adversarial networks with limited data, 2020,
        https://arxiv.org/abs/2006.06676 (section 3.1)

    Notes:
        - The source looks at four batches at a time; here $p$ moves at each.
        - Losses of differences of scores (`"wasserstein"` and the relativistic ones) do not say
          where 0 is. For these `GAN` counts real scores from the mean of the generated ones'.
        - Keras's layers that move, turn or zoom images say that they cannot be compiled
          (`supports_jit`), and Keras then compiles no part of the step, which costs most on JAX.
          `RandomFlip` and `RandomBrightness` can be compiled, and so can functions.
        - The state, $p$ and a seed, is saved with the model.
    """

    def __init__(
        self,
        augmentations: Callable[[Any], Any] | Sequence[Callable[[Any], Any]],
        target: float = 0.6,
        ramp: float = 500_000,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        several: Any = augmentations if isinstance(augmentations, list | tuple) else [augmentations]
        if not several:
            raise ValueError(
                "`augmentations` should be at least one layer or function. "
                f"Received: augmentations={augmentations!r}"
            )
        for augmentation in several:
            if not callable(augmentation):
                raise TypeError(
                    "`augmentations` should be layers or functions of samples. "
                    f"Received: {augmentation!r}"
                )
        self.target = checked_number("target", target)
        if self.target >= 1:
            raise ValueError(f"`target` should be below 1. Received: target={target!r}")
        self.ramp = checked_number("ramp", ramp)
        if self.ramp == 0:
            raise ValueError(f"`ramp` should be above 0. Received: ramp={ramp!r}")
        self.augmentations = list(several)
        self.seed = seed
        self.random = keras.random.SeedGenerator(seed)
        self.probability = self.add_weight(
            (), "zeros", "float32", trainable=False, autocast=False, name="probability"
        )
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the samples, in training some of them changed."""
        if not training:
            return inputs
        for augmentation in self.augmentations:
            is_changed = (
                keras.random.uniform((batch_size(inputs),), seed=self.random) < self.probability
            )
            changed = _checked_like(augmentation(inputs), inputs)
            inputs = keras.tree.map_structure(
                functools.partial(_chosen, is_changed), changed, inputs
            )
        return inputs

    def update(self, scores: Tensor) -> None:
        """Move the probability by what the discriminator says of real samples.

        Args:
            scores: (batch, …), high for what it holds for real.
        """
        held = ops.mean(ops.sign(ops.cast(scores, "float32")))
        step = ops.cast(batch_size(scores), "float32") / self.ramp
        moved = self.probability + ops.sign(held - self.target) * step
        self.probability.assign(ops.clip(moved, 0.0, 1.0))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape, or shapes, of the inputs."""
        return input_shape

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """Return symbolic tensors like the inputs."""
        return keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, x.dtype), inputs)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return super().get_config() | {
            "augmentations": [serialized(one) for one in self.augmentations],
            "target": self.target,
            "ramp": self.ramp,
            "seed": self.seed,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> AdaptiveAugmentation:
        """Make the layer that `get_config` describes."""
        config = dict(config)
        config["augmentations"] = [
            keras.saving.deserialize_keras_object(one, custom_objects=custom_objects)
            for one in config["augmentations"]
        ]
        return cls(**config)


def _chosen(is_changed: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return ops.where(along_batch(is_changed, old), ops.cast(new, old.dtype), old)


def _checked_like(changed: Any, inputs: Any) -> Any:
    """Check that samples keep their structure and their shapes, of which `where` makes one."""
    new, old = (dict(keras.tree.flatten_with_path(part)) for part in (changed, inputs))
    if set(new) != set(old) or not all(shapes_fit(new[at].shape, old[at].shape) for at in old):
        raise ValueError(
            "An augmentation should return samples like those that it is given. "
            f"Received: {_shapes(changed)} for {_shapes(inputs)}"
        )
    return changed


def _shapes(x: Any) -> Any:
    return keras.tree.map_structure(lambda leaf: str(tuple(leaf.shape)), x)
