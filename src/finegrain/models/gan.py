"""A GAN that learns from one loss, with one optimizer, in one pass."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain.checks import checked_number
from finegrain.models.gan_losses import get_losses
from finegrain.overlay import Overlay
from finegrain.routing import frozen, inner_gradient_only, stop_gradient
from finegrain.routing.backend import backend

Tensor = Any

PENALTIES = {"wgan_gp": 10.0, "r1": 10.0}


@keras.saving.register_keras_serializable(package="finegrain")
class GAN(keras.Model):
    r"""A generator and a discriminator that learn from one loss.

    $$L = L_D\big(D(x), D(\text{sg}(G(z)))\big) + \lambda\, L_G\big(D_{\text{sg}}(G(z))\big)$$

    The first term moves the discriminator and the second the generator, which is called once in
    a step. To let the generator learn at another pace under Adam or RMSprop, which divide
    $\lambda$ out, give it a `finegrain.Rule` with a `learning_rate_multiplier`.

    Args:
        generator: A model from noise (batch, latent_dim), or [noise, labels], to samples.
        discriminator: A model from samples, or [samples, labels], to scores (batch, 1).
        loss: `"hinge"` (real samples have low scores), `"non_saturating"`, `"least_squares"`,
            `"wasserstein"` (real samples have high scores), or a pair of functions: the
            discriminator's loss of (real scores, fake scores), the generator's of fake scores.
        generator_weight: $\lambda \geq 0$. It scales the generator's rate under plain SGD only.
        gradient_penalty: `"wgan_gp"`, $w\,\mathrm{E}(\lVert\nabla D\rVert - 1)^2$ between real
            and fake samples; `"r1"`, $\tfrac{w}{2}\,\mathrm{E}\lVert\nabla D\rVert^2$ at real
            ones; a pair of a name and the weight $w$ (10 unless given); or a number, the weight
            of `"wgan_gp"`.
        latent_dim: Length of the noise. Defaults to what the generator's input says.
        routing: `"frozen"`, or `"subtraction"`, the source's form, for discriminators whose
            weights cannot be read as constants.
        ema_momentum: If given, in [0, 1): keeps a moving average of the generator's weights,
            which `generate` uses.
        seed: Of the noise.
        **kwargs: Keras's own, such as `name`.

    Raises:
        TypeError: if a network is no Keras layer.
        ValueError: for an unknown loss, penalty or routing, or a length of noise that is missing.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> generator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> discriminator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> gan = fg.models.GAN(generator, discriminator)
    >>> gan.compile(fg.PerWeight("adam", [fg.Rule(generator, learning_rate_multiplier=0.5)]))
    >>> history = gan.fit(np.ones((8, 2), "float32"), verbose=0)
    >>> sorted(history.history)
    ['discriminator_loss', 'fake_score', 'generator_loss', 'loss', 'real_score']
    >>> gan.generate(3, seed=0).shape
    (3, 2)

    References:
        - Su Jianlin, Cutting gradients skilfully: a GAN from a single loss, 2019,
          https://kexue.fm/archives/6387
        - Ishaan Gulrajani et al., Improved training of Wasserstein GANs, 2017,
          https://arxiv.org/abs/1704.00028
        - Lars Mescheder, Andreas Geiger, Sebastian Nowozin, Which training methods for GANs do
          actually converge?, 2018, https://arxiv.org/abs/1801.04406
    """

    def __init__(
        self,
        generator: keras.layers.Layer,
        discriminator: keras.layers.Layer,
        loss: Any = "hinge",
        generator_weight: float = 1.0,
        gradient_penalty: Any = None,
        latent_dim: int | None = None,
        *,
        routing: str = "frozen",
        ema_momentum: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            if not isinstance(network, keras.layers.Layer):
                raise TypeError(f"`{name}` should be a Keras model. Received: {name}={network!r}")
        if routing not in ("frozen", "subtraction"):
            raise ValueError(
                f"`routing` should be 'frozen' or 'subtraction'. Received: routing={routing!r}"
            )
        if ema_momentum is not None and not 0 <= ema_momentum < 1:
            raise ValueError(
                f"`ema_momentum` should be in [0, 1). Received: ema_momentum={ema_momentum!r}"
            )
        self.loss_pair = tuple(loss) if isinstance(loss, list) else loss
        get_losses(self.loss_pair)
        self.generator, self.discriminator = generator, discriminator
        self.generator_weight = checked_number("generator_weight", generator_weight)
        self.gradient_penalty = _checked_penalty(gradient_penalty)
        self.latent_dim = latent_dim if latent_dim is not None else _latent_dim_of(generator)
        self.routing, self.ema_momentum, self.seed = routing, ema_momentum, seed
        self.noise = keras.random.SeedGenerator(seed)
        self.trackers = {
            name: keras.metrics.Mean(name)
            for name in ("discriminator_loss", "generator_loss", "real_score", "fake_score")
        }
        if ema_momentum is not None or generator.built:
            self._create_state()
        if generator.built and discriminator.built:
            self.built = True

    def _create_state(self) -> None:
        self.averages: list[Any] = []
        if not self.generator.built:
            self.generator.build((None, self.latent_dim))
        if self.ema_momentum is None:
            return
        self.averages = [
            self.add_weight(shape=w.shape, dtype=w.dtype, trainable=False, name=f"average_{i}")
            for i, w in enumerate(self.generator.trainable_variables)
        ]
        for average, weight in zip(self.averages, self.generator.trainable_variables, strict=True):
            average.assign(ops.copy(weight))  # JAX gives buffers away: not the same one

    def build(self, input_shape: Any) -> None:
        """Builds both networks, for samples of this shape."""
        if not self.generator.built:
            self.generator.build((None, self.latent_dim))
        if not self.discriminator.built:
            self.discriminator.build(input_shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The scores of samples, or of (samples, labels).

        Samples alone, where the discriminator needs labels too, come back as they are: their
        scores are computed with the loss, which has the labels.
        """
        if isinstance(inputs, list | tuple):
            inputs = list(inputs)
        elif _arity(self.discriminator) == 2:
            return inputs
        return self.discriminator(inputs, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """The one loss of both networks."""
        if sample_weight is not None:
            raise ValueError("A GAN takes no `sample_weight`: leave it out of `fit`.")
        losses = list(self.losses)
        real, labels = (x[0], x[1]) if isinstance(x, list | tuple) else (x, y)
        if labels is not None and _arity(self.discriminator) == 1:
            raise ValueError(
                "This discriminator takes samples alone: fit without labels, or give both "
                "networks a second input for them. Received: labels beside the samples"
            )
        if labels is not None and y is not None:
            y_pred = self.discriminator([real, labels], training=training)

        def judged(samples: Any) -> Any:
            return samples if labels is None else [samples, labels]

        z = keras.random.normal((ops.shape(real)[0], self.latent_dim), seed=self.noise)
        fake = self.generator(judged(z), training=training)
        real_score = ops.cast(y_pred, "float32")
        fake_score = ops.cast(
            self.discriminator(judged(stop_gradient(fake)), training=training), "float32"
        )
        discriminator_of, generator_of = get_losses(self.loss_pair)
        of_discriminator = ops.mean(discriminator_of(real_score, fake_score))

        def of_fake(samples: Any) -> Any:
            score = self.discriminator(judged(samples), training=training)
            return ops.mean(generator_of(ops.cast(score, "float32")))

        if self.routing == "frozen":
            score = frozen(self.discriminator)(judged(fake), training=training)
            routed = of_generator = ops.mean(generator_of(ops.cast(score, "float32")))
        else:
            routed = inner_gradient_only(of_fake, fake)
            of_generator = ops.mean(generator_of(fake_score))
        total = of_discriminator + self.generator_weight * routed
        if self.gradient_penalty is not None:
            kind, weight = self.gradient_penalty
            slope = self._slope(kind, real, stop_gradient(fake), labels, training)
            total = total + weight * _penalty(kind, slope)
        for extra in losses:
            total = total + ops.sum(extra)
        found = (of_discriminator, of_generator, ops.mean(real_score), ops.mean(fake_score))
        for tracker, value in zip(self.trackers.values(), found, strict=True):
            tracker.update_state(ops.stop_gradient(value))
        if training and self.ema_momentum is not None:
            for average, weight in zip(
                self.averages, self.generator.trainable_variables, strict=True
            ):
                old = ops.convert_to_tensor(average)
                new = ops.stop_gradient(ops.convert_to_tensor(weight))
                average.assign(new + self.ema_momentum * (old - new))
        return total

    def _slope(self, kind: str, real: Tensor, fake: Tensor, labels: Any, training: bool) -> Tensor:
        """The gradient of the scores, where the penalty of this kind looks at it."""
        real = ops.cast(real, "float32")
        if kind == "wgan_gp":
            shape = (ops.shape(real)[0],) + (1,) * (len(real.shape) - 1)
            share = keras.random.uniform(shape, seed=self.noise)
            real = real + share * (ops.cast(fake, "float32") - real)

        def score(x: Tensor) -> tuple[Tensor, list[Tensor]]:
            with Overlay() as scope:
                scores = self.discriminator(x if labels is None else [x, labels], training=training)
            updated.extend(v for v, _ in scope.updates() if not v.trainable)
            values = [value for v, value in scope.updates() if not v.trainable]
            return ops.sum(ops.cast(scores, "float32")), values

        updated: list[Any] = []
        slope, values = backend.gradient(score, real)
        for variable, value in zip(updated, values, strict=True):
            variable.assign(value)
        return slope

    def generate(self, n: int, seed: int | None = None, labels: Any = None) -> np.ndarray:
        """`n` samples; with a seed always the same.

        Args:
            n: How many, at least 1.
            seed: Of the noise; another noise at each call by default.
            labels: (n,) labels, for a generator that takes them.

        Returns:
            (n, …) samples, by the averaged weights where there are any.
        """
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"`n` should be an integer >= 1. Received: n={n!r}")
        random = np.random.default_rng(seed)
        z = ops.convert_to_tensor(random.normal(size=(n, self.latent_dim)).astype("float32"))
        inputs = z if labels is None else [z, ops.convert_to_tensor(labels)]
        weights = self.generator.trainable_variables if self.ema_momentum is not None else []
        averages = {id(w): a for w, a in zip(weights, getattr(self, "averages", []), strict=False)}
        with Overlay(weights, lambda v, value: ops.convert_to_tensor(averages[id(v)])):
            samples = self.generator(inputs, training=False)
        return ops.convert_to_numpy(ops.stop_gradient(samples))

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal model."""
        loss = self.loss_pair
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "generator": serialize(self.generator),
            "discriminator": serialize(self.discriminator),
            "loss": loss if isinstance(loss, str) else [serialize(part) for part in loss],
            "generator_weight": self.generator_weight,
            "gradient_penalty": self.gradient_penalty,
            "latent_dim": self.latent_dim,
            "routing": self.routing,
            "ema_momentum": self.ema_momentum,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> GAN:
        """The model of a configuration."""
        config = dict(config)

        def restored(part: Any) -> Any:
            return keras.saving.deserialize_keras_object(part, custom_objects=custom_objects)

        for name in ("generator", "discriminator"):
            config[name] = restored(config[name])
        if not isinstance(config["loss"], str):
            config["loss"] = tuple(restored(part) for part in config["loss"])
        return cls(**config)


def _penalty(kind: str, slope: Tensor) -> Tensor:
    squared = ops.sum(ops.cast(slope, "float32") ** 2, axis=tuple(range(1, len(slope.shape))))
    if kind == "r1":
        return ops.mean(squared) / 2
    return ops.mean((ops.sqrt(squared + 1e-12) - 1) ** 2)  # the root has a slope at 0, too


def _checked_penalty(penalty: Any) -> tuple[str, float] | None:
    if penalty is None:
        return None
    if isinstance(penalty, str) and penalty in PENALTIES:
        return penalty, PENALTIES[penalty]
    if isinstance(penalty, list | tuple) and len(penalty) == 2 and penalty[0] in PENALTIES:
        return penalty[0], checked_number("gradient_penalty", penalty[1])
    if isinstance(penalty, int | float):
        return "wgan_gp", checked_number("gradient_penalty", penalty)
    raise ValueError(
        f"`gradient_penalty` should be one of {list(PENALTIES)}, a pair of it and a weight, or a "
        f"weight. Received: gradient_penalty={penalty!r}"
    )


def _latent_dim_of(generator: Any) -> int:
    inputs = getattr(generator, "inputs", None)
    if not inputs:
        raise ValueError(
            "The length of the noise is unknown: give `latent_dim`. Received: latent_dim=None"
        )
    return inputs[0].shape[-1]


def _arity(network: Any) -> int | None:
    """The number of inputs; `None` where Keras does not know it."""
    inputs = getattr(network, "inputs", None)
    return len(inputs) if inputs else None
