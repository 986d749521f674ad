"""A GAN that learns from one loss, with one optimizer, in one pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._batch import batch_size
from finegrain._checks import checked_number
from finegrain._deprecated import warn
from finegrain.game.average import checked_momentum
from finegrain.game.checks import serialized
from finegrain.game.model import Game
from finegrain.gan.losses import (
    RELATIVE,
    REVERSED_HINGE,
    first,
    get_losses,
    loss_value,
    takes_labels,
    widened,
)
from finegrain.gan.networks import build_networks, check_samples, checked_networks, checked_noise
from finegrain.gan.penalty import GradientPenalty, checked_penalties
from finegrain.gan.roles import Roles
from finegrain.layers.adaptive_augmentation import AdaptiveAugmentation
from finegrain.routing import stop_gradient

Tensor = Any

ROUTINGS = ("constant_weights", "subtraction", "reversal", "frozen")


@keras.saving.register_keras_serializable(package="finegrain")
class GAN(Game):
    r"""A generator and a discriminator that learn from one loss.

    $$L = \underbrace{L_D\big(D(x), D(G(z))\big)}_{\text{moves } D}
      + \lambda\, \underbrace{L_G\big(D(x), D(G(z))\big)}_{\text{moves } G}$$

    Each network is called once for each kind of sample in a step. To let the generator learn at
    another pace under Adam or RMSprop, which divide $\lambda$ out, give it a `finegrain.Rule` with
    a `learning_rate_multiplier`.

    Compile it with an optimizer alone, and fit it on samples; where the networks take labels too,
    on (samples, labels), whether as arrays `x, y`, as a pair in `x`, or from a data set. Labels may
    be whatever both networks take besides: classes, or the images that pix2pix translates.

    Networks whose input is a dict take a dict: `fit({"image": x, "kind": y})`. What both networks
    have is labels, what the generator has alone is noise, and what the discriminator has alone,
    samples; of each there may be several.

    Args:
        generator: A model from noise, [noise, labels] or a dict of these, to samples.
        discriminator: A model from samples, [samples, labels] or a dict of these, to scores
            (batch, 1). It may put out more, such as classes; then the scores come first, and `loss`
            gets all of it. Where a loss names `labels`, the discriminator need not take them.
        loss: `"hinge"`, `"non_saturating"`, `"least_squares"`, `"wasserstein"`, `"relativistic"`,
            `"relativistic_average"`, in all of which real samples get the high scores (the
            source's hinge has the other sign); or the discriminator's loss, a function of (real
            scores, fake scores); or a pair of it and the generator's. A function may also name
            `real_samples`, `fake_samples`, `noise` and `labels`, and gets them. Functions of your
            own are saved by name: register them with Keras.
        generator_weight: $\lambda \geq 0$. It scales the generator's rate under plain SGD only.
        gradient_penalty: The former name of `penalties`.
        latent_dim: Length of the noise, or its shape. Defaults to what the generator's input says.
            A dict gives those of named inputs, and says by it which of them are noise.
        generator_loss: The generator's loss, a function of (fake scores) or of (real scores, fake
            scores), and of what else it names, as in `loss`.
        penalties: A list of penalties on the discriminator: `"r1"`,
            $\tfrac{w}{2}\,\mathrm{E}\lVert\nabla D\rVert^2$ at real samples; `"r2"`, the same at
            fake ones; `"wgan_gp"`, $w\,\mathrm{E}(\lVert\nabla D\rVert - 1)^2$ between both;
            pairs of a name and the weight $w$ (10 unless given);
            `finegrain.losses.GradientPenalty`, also for one at every so many steps; or functions of
            (critic, real, fake).
        noise: A function of (number, seed) that draws other noise than a normal distribution's,
            with `keras.random` and the seed.
        augment: A layer or function that changes real and fake samples before the discriminator
            sees them. Gradients pass through it. `finegrain.layers.AdaptiveAugmentation` changes as
            many as it takes against a discriminator that knows its samples by heart.
        turns: Whether the networks take turns: each batch moves one of them, the discriminator
            first, while the other rests.
        ema_momentum: If given, in [0, 1): keeps a moving average of the generator's weights,
            which `generate` uses. It starts from the first weights.
        seed: Of the noise, an integer.
        routing: Not needed any more.
        **kwargs: Keras's own, such as `name`.

    Raises:
        TypeError: if a network is no Keras layer.
        ValueError: for an unknown loss or penalty, a length of noise that is missing, labels that
            one network takes and nobody asks for, a network that is not trainable, or samples of
            another shape than the discriminator's.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> generator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> discriminator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> gan = fg.models.GAN(generator, discriminator, "relativistic", penalties=["r1", "r2"])
    >>> gan.compile(fg.PerWeight("adam", [fg.Rule(generator, learning_rate_multiplier=0.5)]))
    >>> history = gan.fit(np.ones((8, 2), "float32"), verbose=0)
    >>> sorted(history.history)
    ['discriminator_loss', 'fake_score', 'generator_loss', 'loss', 'penalty', 'real_score']
    >>> gan.generate(3, seed=0).shape
    (3, 2)

    References:
        - Su Jianlin, Cutting gradients skilfully: a GAN from a single loss, 2019,
          https://kexue.fm/archives/6387
        - Alexia Jolicoeur-Martineau, The relativistic discriminator: a key element missing from
          standard GAN, 2019, https://arxiv.org/abs/1807.00734
        - Nick Huang et al., The GAN is dead; long live the GAN! A modern GAN baseline, 2024,
          https://arxiv.org/abs/2501.05441 (`"relativistic"` with `"r1"` and `"r2"`)

    Notes:
        - The source makes one loss of both aims by stopping gradients. Here one scalar has the
          gradients of both, each with respect to its own network (see `finegrain.models.Game`):
          the same numbers, for less work where no compiler merges calls.
        - Statistics and seeds are updated by each call of a network: of the discriminator on real
          samples, on fake ones and for each penalty.
        - A file keeps the seeds of the noise and of all layers, so that training goes on as if it
          had not stopped. Give Dropout a seed for it: without one, Keras draws its masks on
          PyTorch from a generator that belongs to no model.
        - Several steps of the discriminator for each of the generator's are a `Rule` whose
          multiplier is 0 in between: weights and their slots rest. The work of a step stays the
          same, so that beyond two it costs less to take turns by hand.
    """

    _builds_networks = True

    def __init__(
        self,
        generator: keras.layers.Layer,
        discriminator: keras.layers.Layer,
        loss: Any = "hinge",
        generator_weight: float = 1.0,
        gradient_penalty: Any = None,
        latent_dim: Any = None,
        *,
        generator_loss: Callable[..., Any] | None = None,
        penalties: Sequence[Any] = (),
        noise: Callable[..., Any] | None = None,
        augment: Callable[[Any], Any] | None = None,
        turns: bool = False,
        ema_momentum: float | None = None,
        seed: int | None = None,
        routing: str | None = None,
        **kwargs: Any,
    ) -> None:
        checked_networks(generator, discriminator)
        pair = get_losses(loss, generator_loss)
        roles = _roles(generator, discriminator, latent_dim, pair)
        latent_shape: Any = checked_noise(latent_dim, noise, generator, roles)
        check_samples(generator, discriminator, roles)
        if gradient_penalty is not None:
            warn("GAN(gradient_penalty=...)", "GAN(penalties=[...])")
        if routing is not None:
            if routing not in ROUTINGS:
                raise ValueError(f"`routing` should be left out. Received: routing={routing!r}")
            warn("GAN(routing=...)", "no routing: each loss reaches its network alone")
        if augment is not None and not callable(augment):
            raise TypeError(
                f"`augment` should be a layer or function. Received: augment={augment!r}"
            )
        if not isinstance(turns, bool):
            raise TypeError(f"`turns` should be True or False. Received: turns={turns!r}")
        if ema_momentum is not None:
            checked_momentum("ema_momentum", ema_momentum)
        found = checked_penalties(penalties, gradient_penalty)
        reach = {"discriminator_loss": "discriminator", "generator_loss": "generator"}
        adaptive = isinstance(augment, AdaptiveAugmentation)
        if found:
            reach["penalty"] = "discriminator"
        super().__init__(
            {"generator": generator, "discriminator": discriminator},
            _play,
            reach,
            reports=("real_score", "fake_score", *(["augmentation"] if adaptive else [])),
            turns=_turns(reach) if turns else None,
            averages={} if ema_momentum is None else {"average": ("generator", ema_momentum)},
            seed=seed,
            **kwargs,
        )
        self.generator, self.discriminator = generator, discriminator
        # Files of the first release have it here.
        self.average = self.averages.get("average")
        self.loss_pair = loss if isinstance(loss, str) else pair
        self.losses_of_scores = pair
        self.generator_loss = generator_loss
        self.penalties = found
        self.latent_shape, self.noise = latent_shape, noise
        self.roles = roles
        self.augment = augment
        self.generator_weight = checked_number("generator_weight", generator_weight)
        self._loss_weights = {"generator_loss": self.generator_weight}
        self.ema_momentum = ema_momentum

    @property
    def latent_dim(self) -> Any:
        """The length of the noise, or its shape where it is no vector; a dict of several."""
        shape = self.latent_shape
        return shape[0] if isinstance(shape, tuple) and len(shape) == 1 else shape

    def build(self, input_shape: Any) -> None:
        """Build both networks for samples of this shape, or for the shapes of (samples, labels)."""
        build_networks(
            self.generator, self.discriminator, self.latent_shape, input_shape, self.roles
        )
        # How many inputs some layers take is known when they have their weights.
        latent_dim = self.roles.named_noise(self.latent_dim)
        self.roles = _roles(self.generator, self.discriminator, latent_dim, self.losses_of_scores)
        check_samples(self.generator, self.discriminator, self.roles)
        self._finish_building()

    def compile(self, optimizer: Any = "rmsprop", loss_weights: None = None, **kwargs: Any) -> None:
        """Set the optimizer and Keras's other arguments of `compile`, except losses and metrics."""
        for name in (
            "d_optimizer",
            "g_optimizer",
            "discriminator_optimizer",
            "generator_optimizer",
        ):
            if name in kwargs:
                raise TypeError(
                    "A GAN has one optimizer. To give its networks rates or optimizers of their "
                    "own, wrap it: compile(finegrain.PerWeight('adam', [finegrain.Rule(generator, "
                    f"optimizer=...)])). Received: {name}={kwargs[name]!r}"
                )
        if loss_weights is not None:
            raise ValueError("Weigh the generator's loss by GAN(generator_weight=...).")
        super().compile(optimizer, {"generator_loss": self.generator_weight}, **kwargs)

    def get_compile_config(self) -> dict[str, Any] | None:
        """Return what `compile` was called with."""
        config = super().get_compile_config()
        return config and {**config, "loss_weights": None}

    def predict(self, x: Any, network: str | None = "discriminator", **kwargs: Any) -> Any:
        """Compute the scores of samples, or of (samples, labels); or what another network makes.

        Args:
            x: Inputs, in the forms that Keras's `predict` takes.
            network: `"discriminator"`, `"generator"` or, for the averaged weights, `"average"`.
            **kwargs: Keras's own, such as `batch_size` and `verbose`.
        """
        if network == "discriminator":
            self.roles.check_judged(x)
        return super().predict(x, network, **kwargs)

    def _losses_of(self, data: Any, training: bool) -> tuple[Any, Any]:
        if data["sample_weight"] is not None:
            raise ValueError("A GAN takes no `sample_weight`: leave it out of `fit`.")
        real, labels = self.roles.split(data["x"], data["y"])
        values = self._inside.value(
            function=functools.partial(self._play, real, labels, training), training=training
        )
        values = self._checked_values(values)
        return self._weighted(values), values

    def _play(self, real: Any, labels: Any, training: bool) -> dict[str, Tensor]:
        """Compute the losses of both networks and what is reported besides."""
        noise = self._noise(batch_size(real), self.random)
        fake = self.roles.made(self.generator(self.roles.of_generator(noise, labels)))

        def judge(samples: Any) -> Any:
            return widened(self.discriminator(self.roles.of_discriminator(samples, labels)))

        augmented = self.augment or (lambda samples: samples)
        seen, seen_fake = augmented(real), augmented(fake)
        real_scores, fake_scores = judge(seen), judge(seen_fake)
        extra = {"real_samples": real, "fake_samples": fake, "noise": noise, "labels": labels}
        of_discriminator, of_generator = (
            loss_value(function, real_scores, fake_scores, extra)
            for function in self.losses_of_scores
        )
        values = {
            "discriminator_loss": of_discriminator,
            "generator_loss": of_generator,
            "real_score": ops.mean(first(real_scores)),
            "fake_score": ops.mean(first(fake_scores)),
        }
        if self.penalties:
            values["penalty"] = sum(
                self._penalty(penalty, judge, seen, stop_gradient(seen_fake))
                for penalty in self.penalties
            )
        if isinstance(self.augment, AdaptiveAugmentation):
            if training:
                origin = values["fake_score"] if self.loss_pair in RELATIVE else 0.0
                self.augment.update(first(real_scores) - origin)
            values["augmentation"] = self.augment.probability
        return values

    def _penalty(self, penalty: Any, judge: Any, real: Tensor, fake: Tensor) -> Tensor:
        if not isinstance(penalty, GradientPenalty):
            return ops.mean(penalty(judge, real, fake))
        step, states = ops.convert_to_tensor(self.steps), self.discriminator.non_trainable_variables
        return penalty(judge, real, fake, seed=self.random, step=step, states=states)

    def _noise(self, number: Any, seed: keras.random.SeedGenerator) -> Any:
        if self.noise is not None:
            return self.noise(number, seed)
        return self._each_noise(lambda shape: keras.random.normal((number, *shape), seed=seed))

    def _each_noise(self, draw: Callable[[Any], Any]) -> Any:
        """Draw the noise, or a dict of several, of these shapes."""
        shapes = self.latent_shape
        if isinstance(shapes, Mapping):
            return {name: draw(tuple(shape)) for name, shape in shapes.items()}
        return draw(shapes)

    def generate(
        self, n: int, seed: int | None = None, labels: Any = None, *, batch_size: int = 256
    ) -> np.ndarray:
        """Generate `n` samples, always the same ones for the same seed.

        Args:
            n: How many, at least 1.
            seed: Of the noise; another noise at each call by default.
            labels: (n, …) labels, for a generator that takes them.
            batch_size: How many to make at a time.

        Returns:
            (n, …) samples, by the averaged weights where there are any.

        Raises:
            ValueError: if `n` or `batch_size` is no integer >= 1, if labels are missing or as many
                as they should not be, or if the generator has no averages because it is not built.
        """
        for name, value in (("n", n), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"`{name}` should be an integer >= 1. Received: {name}={value!r}")
        labels = self.roles.labels_for(labels, n)
        if self.average is not None and not self.average.built:
            raise ValueError("The networks have no weights yet: call `fit` or `build` first.")
        if self.noise is None:
            random = np.random.default_rng(seed)
            noise = self._each_noise(
                lambda shape: random.normal(size=(n, *shape)).astype("float32")
            )
        else:
            drawn = self.noise(n, keras.random.SeedGenerator(seed))
            noise = keras.tree.map_structure(ops.convert_to_numpy, drawn)
        inputs = self.roles.of_generator(noise, labels)
        size = min(n, batch_size)
        # Batches of one size: a compiler would start anew for a smaller last one.
        rows = np.arange(-(-n // size) * size) % n
        inputs = keras.tree.map_structure(lambda leaf: leaf[rows], inputs)
        network = "generator" if self.average is None else "average"
        samples = super().predict(inputs, network, batch_size=size, verbose=0)
        return self.roles.made(keras.tree.map_structure(lambda leaf: leaf[:n], samples))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal model."""
        serialize = serialized
        loss = self.loss_pair
        return {
            **keras.Model.get_config(self),
            "generator": serialize(self.generator),
            "discriminator": serialize(self.discriminator),
            "loss": loss if isinstance(loss, str) else [serialize(part) for part in loss],
            # The first release, whose files do not say so, had them low under the hinge loss.
            "real_scores": "high",
            "generator_loss": serialize(self.generator_loss),
            "generator_weight": self.generator_weight,
            "penalties": [serialize(penalty) for penalty in self.penalties],
            "latent_dim": self.roles.named_noise(self.latent_dim),
            "noise": serialize(self.noise),
            "augment": serialize(self.augment),
            "turns": self.turns is not None,
            "ema_momentum": self.ema_momentum,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> GAN:
        """Make the model that `get_config` describes."""
        config = dict(config)

        def restored(part: Any) -> Any:
            return keras.saving.deserialize_keras_object(part, custom_objects=custom_objects)

        for name in ("generator", "discriminator", "generator_loss", "noise", "augment"):
            config[name] = restored(config.get(name))
        # What files of the first release say, and do not say.
        if config.pop("real_scores", "low") == "low" and config["loss"] == "hinge":
            config["loss"] = REVERSED_HINGE
        config.pop("routing", None)
        former = config.pop("gradient_penalty", None)
        penalties = [restored(penalty) for penalty in config.get("penalties", ())]
        config["penalties"] = [*penalties, *([] if former is None else [tuple(former)])]
        if not isinstance(config["loss"], str):
            config["loss"] = tuple(restored(part) for part in config["loss"])
        return cls(**config)


def _roles(generator: Any, discriminator: Any, latent_dim: Any, losses: Any) -> Roles:
    is_told = any(map(takes_labels, losses))
    return Roles(generator, discriminator, latent_dim, losses_take_labels=is_told)


def _turns(reach: dict[str, str]) -> list[list[str]]:
    of_generator = "generator_loss"
    return [[loss for loss in reach if loss != of_generator], [of_generator]]


def _play(**given: Any) -> Any:
    """Stand for the losses of a GAN, which computes its own."""
    raise NotImplementedError
