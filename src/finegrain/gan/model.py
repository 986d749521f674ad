"""A GAN that learns from one loss, with one optimizer, in one pass."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._backend import backend
from finegrain._checks import checked_number
from finegrain.gan.average import WeightAverage
from finegrain.gan.losses import REVERSED_HINGE, get_losses, widened
from finegrain.gan.networks import arity, build_networks, checked_latent_dim, inputs_of
from finegrain.gan.penalty import GradientPenalty
from finegrain.gan.routing import checked_routing, generator_loss, generator_score, shown
from finegrain.routing import constant_weights, stop_gradient
from finegrain.routing.overlay import Overlay, is_built

Tensor = Any


@keras.saving.register_keras_serializable(package="finegrain")
class GAN(keras.Model):
    r"""A generator and a discriminator that learn from one loss.

    $$L = L_D\big(D(x), D(\text{sg}(G(z)))\big) + \lambda\, L_G\big(D_{\text{sg}}(G(z))\big)$$

    The first term moves the discriminator and the second the generator, which is called once in
    a step. To let the generator learn at another pace under Adam or RMSprop, which divide
    $\lambda$ out, give it a `finegrain.Rule` with a `learning_rate_multiplier`.

    Compile it with an optimizer alone, and fit it on samples; where the networks take labels too,
    on (samples, labels), whether as arrays `x, y`, as a pair in `x`, or from a data set.

    Args:
        generator: A model from noise (batch, latent_dim), or [noise, labels], to samples.
        discriminator: A model from samples, or [samples, labels], to scores (batch, 1).
        loss: `"hinge"`, `"non_saturating"`, `"least_squares"`, `"wasserstein"`, in all of which
            real samples get the high scores (the source's hinge has the other sign), or a pair of
            functions: the
            discriminator's loss of (real scores, fake scores), the generator's of fake scores.
            Functions of your own are saved by name: register them with Keras.
        generator_weight: $\lambda \geq 0$. It scales the generator's rate under plain SGD only.
        gradient_penalty: `"wgan_gp"`, $w\,\mathrm{E}(\lVert\nabla D\rVert - 1)^2$ between real
            and fake samples; `"r1"`, $\tfrac{w}{2}\,\mathrm{E}\lVert\nabla D\rVert^2$ at real
            ones; a pair of a name and the weight $w$ (10 unless given); or a number, the weight
            of `"wgan_gp"`.
        latent_dim: Length of the noise. Defaults to what the generator's input says.
        routing: How the generator's loss is kept from the discriminator's weights.
            `"constant_weights"` reads them as constants. `"subtraction"` is the source's form, for
            weights that cannot be read so. `"reversal"`, for the Wasserstein loss, where both
            networks want the opposite, sends the discriminator's gradient on with its sign
            changed: one backward pass serves both.
        ema_momentum: If given, in [0, 1): keeps a moving average of the generator's weights,
            which `generate` uses. It starts from the first weights.
        seed: Of the noise, an integer.
        **kwargs: Keras's own, such as `name`.

    Raises:
        TypeError: if a network is no Keras layer.
        ValueError: for an unknown loss, penalty or routing, a length of noise that is missing,
            labels for one network alone, or a discriminator whose weights cannot be constants.

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

    Notes:
        - The discriminator's statistics and seeds are updated by each of its calls: on real
          samples, on fake ones, for the penalty, and, with `"constant_weights"`, for the generator.
        - A file keeps the seeds of the noise and of all layers, so that training goes on as if it
          had not stopped. Give Dropout a seed for it: without one, Keras draws its masks on
          PyTorch from a generator that belongs to no model, which `"subtraction"` cannot
          cancel, either.
        - Losses that layers add in their call count for real samples, fake samples and the
          generator, once each, and those on weights once. A call for the other's sake adds none;
          but with `"reversal"` what the discriminator adds for fake samples reaches the
          generator, too, reversed.
        - What a layer assigns to its own trainable weights is used in that call and forgotten.
          So SpectralNormalization normalizes in training, by a $\sigma$ that has a gradient, and
          its kernel stays as the optimizer made it.
        - Several steps of the discriminator for each of the generator's are a `Rule` whose
          multiplier is 0 in between: weights and their slots rest. The work of a step stays the
          same, so that beyond two it costs less to take turns by hand.
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
        routing: str = "constant_weights",
        ema_momentum: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.latent_dim = checked_latent_dim(latent_dim, generator, discriminator)
        self.routing = checked_routing(routing, loss)
        get_losses(loss)
        self.loss_pair = loss if isinstance(loss, str) else tuple(loss)
        if self.routing == "constant_weights":
            constant_weights(discriminator)  # refuses what cannot be
        self.generator, self.discriminator = generator, discriminator
        self.generator_weight = checked_number("generator_weight", generator_weight)
        self.gradient_penalty = GradientPenalty.of(gradient_penalty)
        self.average = None if ema_momentum is None else WeightAverage(ema_momentum)
        self.ema_momentum, self.seed = ema_momentum, seed
        self.noise = keras.random.SeedGenerator(seed)
        self.trackers = {
            name: keras.metrics.Mean(name)
            for name in ("discriminator_loss", "generator_loss", "real_score", "fake_score")
        }
        if is_built(generator) and self.average is not None:
            self.average.create(generator)
        self.built = is_built(generator) and is_built(discriminator)

    def build(self, input_shape: Any) -> None:
        """Build both networks for samples of this shape, or for the shapes of (samples, labels)."""
        build_networks(self.generator, self.discriminator, self.latent_dim, input_shape)
        if self.average is not None:
            self.average.create(self.generator)
        self.built = True

    def compile(self, optimizer: Any = "rmsprop", **kwargs: Any) -> None:
        """Set the optimizer and Keras's other arguments of `compile`, except losses and metrics."""
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"A GAN has its own loss and metrics: leave `{name}` out of `compile`, and "
                    "give the loss to GAN(loss=...). To measure samples, call `generate` in a "
                    f"callback. Received: {name}={kwargs[name]!r}"
                )
        super().compile(optimizer, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile the model as it was compiled before saving.

        If both networks are built, build the optimizer too.
        """
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Compute the (batch, 1) scores of samples, or of (samples, labels).

        For samples alone, where the discriminator needs labels too, return `None`: their scores
        are computed in `compute_loss`, which has the labels.
        """
        if isinstance(inputs, list | tuple):
            self._check_labels(True)
            inputs = list(inputs)
        elif arity(self.discriminator) == 2:
            return None
        with Overlay() as scope:
            scores = self.discriminator(inputs, training=training)
        scope.assign_statistics()
        scope.forward_losses(self.discriminator)
        return scores

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Compute the one loss of both networks, a scalar."""
        if sample_weight is not None:
            raise ValueError("A GAN takes no `sample_weight`: leave it out of `fit`.")
        real, labels = x if isinstance(x, list | tuple) else (x, y)
        # `train_on_batch` passes arrays.
        real = ops.convert_to_tensor(real)
        labels = None if labels is None else ops.convert_to_tensor(labels)
        self._check_labels(labels is not None)
        added = list(self.losses)  # by the call on real samples, and by regularizers
        if training and self.average is not None:
            self.average.update(self.generator)

        def call(network: Any, samples: Any) -> Tensor:
            return network(inputs_of(samples, labels), training=training)

        def output_of(network: Any, samples: Any) -> Tensor:
            with Overlay() as scope:
                output = call(network, samples)
            scope.assign_statistics()
            added.extend(scope.losses)
            return output

        real_score = widened(output_of(self.discriminator, real) if y_pred is None else y_pred)
        number = ops.shape(real)[0]
        noise = keras.random.normal((number, self.latent_dim), seed=self.noise)
        fake = output_of(self.generator, noise)
        generators = generator_score(self.routing, self.discriminator, call, fake)
        seen = shown(self.routing, fake, self.generator_weight)
        fake_score = widened(output_of(self.discriminator, seen))
        discriminator_loss, loss_of_fake = get_losses(self.loss_pair)
        of_discriminator = ops.mean(discriminator_loss(real_score, fake_score))
        of_generator = generator_loss(
            self.routing,
            lambda score: ops.mean(loss_of_fake(widened(score))),
            generators,
            fake_score,
        )
        total = of_discriminator + self.generator_weight * of_generator
        if self.gradient_penalty is not None:
            judge = functools.partial(call, self.discriminator)
            total = total + self.gradient_penalty(judge, real, stop_gradient(fake), self.noise)
        found = (of_discriminator, of_generator, ops.mean(real_score), ops.mean(fake_score))
        for tracker, value in zip(self.trackers.values(), found, strict=True):
            tracker.update_state(ops.stop_gradient(value), sample_weight=number)
        total = total + sum(map(ops.sum, added))
        # Where a loss is linear, a weight's gradient does not depend on the weight, and its update
        # need not wait for those who read it.
        backend.compute_before_updates([total], self.trainable_variables)
        return total

    def _check_labels(self, given: bool) -> None:
        expected = arity(self.discriminator)
        if given and expected == 1:
            raise ValueError(
                "This discriminator takes samples alone: fit without labels, or give both "
                "networks a second input for them. Received: labels beside the samples"
            )
        if not given and expected == 2:
            raise ValueError(
                "This discriminator takes labels, too: fit on (samples, labels). "
                "Received: samples alone"
            )

    def generate(
        self, n: int, seed: int | None = None, labels: Any = None, *, batch_size: int | None = None
    ) -> np.ndarray:
        """Generate `n` samples, always the same ones for the same seed.

        Args:
            n: How many, at least 1.
            seed: Of the noise; another noise at each call by default.
            labels: (n, …) labels, for a generator that takes them.
            batch_size: How many to make at a time; all by default.

        Returns:
            (n, …) samples, by the averaged weights where there are any.

        Raises:
            ValueError: if `n` or `batch_size` is no integer >= 1, if labels are missing or as many
                as they should not be, or if the generator has no averages because it is not built.
        """
        for name, value in (("n", n), ("batch_size", batch_size or n)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"`{name}` should be an integer >= 1. Received: {name}={value!r}")
        if labels is not None and len(labels) != n:
            raise ValueError(f"Expected a label for each of {n} samples. Received: {len(labels)}")
        self._check_labels(labels is not None)
        if self.average is not None and not self.average.built:
            raise ValueError("The networks have no weights yet: call `fit` or `build` first.")
        noise = np.random.default_rng(seed).normal(size=(n, self.latent_dim)).astype("float32")
        made = []
        with (
            contextlib.nullcontext()
            if self.average is None
            else self.average.reading(self.generator)
        ):
            for start in range(0, n, batch_size or n):
                part = slice(start, start + (batch_size or n))
                of_part = None if labels is None else ops.convert_to_tensor(labels[part])
                inputs = inputs_of(ops.convert_to_tensor(noise[part]), of_part)
                samples = self.generator(inputs, training=False)
                made.append(ops.convert_to_numpy(ops.stop_gradient(samples)))
        return np.concatenate(made)

    def save_own_variables(self, store: Any) -> None:
        """Store the seeds of the noise and of all layers.

        Keras stores the averages with the layer that has them.
        """
        super().save_own_variables(store)
        for i, state in enumerate(self._seed_states()):
            store[f"seed_{i}"] = state

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` stored; keep the present seeds if a file has none."""
        arrays = {key: store[key] for key in store.keys()}  # noqa: SIM118, Keras's has no __iter__
        seeds = [arrays.pop(key) for key in sorted(arrays) if key.startswith("seed_")]
        super().load_own_variables(arrays)
        states = self._seed_states()
        if seeds and len(seeds) != len(states):
            raise ValueError(f"Expected {len(states)} seeds. Received: {len(seeds)} in the file")
        for state, value in zip(states, seeds, strict=False):
            state.assign(value)

    def _seed_states(self) -> list[Any]:
        others = {id(variable) for variable in [*self.weights, *self.metrics_variables]}
        return [variable for variable in self.variables if id(variable) not in others]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal model."""
        serialize = keras.saving.serialize_keras_object
        loss = self.loss_pair
        return {
            **super().get_config(),
            "generator": serialize(self.generator),
            "discriminator": serialize(self.discriminator),
            "loss": loss if isinstance(loss, str) else [serialize(part) for part in loss],
            # The first release, whose files do not say so, had them low under the hinge loss.
            "real_scores": "high",
            "generator_weight": self.generator_weight,
            "gradient_penalty": self.gradient_penalty and list(self.gradient_penalty),
            "latent_dim": self.latent_dim,
            "routing": self.routing,
            "ema_momentum": self.ema_momentum,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> GAN:
        """Make the model that `get_config` describes."""
        config = dict(config)

        def restored(part: Any) -> Any:
            return keras.saving.deserialize_keras_object(part, custom_objects=custom_objects)

        for name in ("generator", "discriminator"):
            config[name] = restored(config[name])
        if config.pop("real_scores", "low") == "low" and config["loss"] == "hinge":
            config["loss"] = REVERSED_HINGE
        if config.get("routing") == "frozen":
            config["routing"] = "constant_weights"
        if not isinstance(config["loss"], str):
            config["loss"] = tuple(restored(part) for part in config["loss"])
        return cls(**config)
