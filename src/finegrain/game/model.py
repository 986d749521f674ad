"""A model of several networks and several losses, each of which moves the networks it is for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from finegrain._apart import Apart
from finegrain._backend import backend
from finegrain._batch import batch_size
from finegrain._checks import checked_number
from finegrain.game.average import WeightAverage
from finegrain.game.checks import check_hidden, serialized
from finegrain.game.inside import RESERVED, Inside, check_parameters, chosen
from finegrain.game.predictor import Predictor
from finegrain.game.reach import Reach
from finegrain.game.routed import Routed, routed, switched, with_gradients
from finegrain.game.turns import checked_turns, resting
from finegrain.routing.overlay import Overlay, is_built

Tensor = Any


@keras.saving.register_keras_serializable(package="finegrain")
class Game(keras.Model):
    r"""Several networks that learn from several losses, in one pass, with one optimizer.

    $$\theta_n \text{ follows } \nabla_{\theta_n} \sum_{l \,\in\, \text{reach}(n)} w_l\, L_l$$

    You write the losses as one plain function of the networks and the data, and say which loss
    moves which networks. Nothing in the function has to be stopped or frozen: it runs once in a
    step, and each loss is differentiated with respect to the weights that it reaches, and no
    others. GANs are such games, and so are features that hide a domain, an actor and its critic, a
    student and a teacher, cycles of translators.

    Compile it with an optimizer alone; give networks rates of their own by `finegrain.PerWeight`.
    Then `fit`, `evaluate`, callbacks, `save` and `load_model` are Keras's.

    Args:
        networks: A dict of Keras layers or models that have their weights (begin each with
            `keras.Input`, or build it). One that no loss reaches should not be trainable.
        losses: A function that returns a dict of scalars. It names what it takes: networks, by
            their names in `networks` and `averages`; `x`, `y` and `sample_weight`, as they come
            from the data; `training`, a bool; `seed`, a `keras.random.SeedGenerator` for noise;
            `step`, how many steps were taken before, an integer tensor. Functions are saved by
            name: register yours with `keras.saving.register_keras_serializable`.
        reach: For the name of each loss, what it moves: the name of a network, what selects weights
            in a `finegrain.Rule` (a layer, a regular expression on paths, a variable, a function),
            or a list of these. By default each network that is trainable has a loss of its name.
        reports: Names of further scalars in the dict, which move nothing and are shown.
        averages: For a name, a pair of the network and a momentum $\beta$ in [0, 1): a moving
            average of that network's weights and statistics, as constants,
            $\bar\theta_t = \beta \bar\theta_{t-1} + (1 - \beta) \theta_t$. It is called like a
            network, always in inference mode.
        turns: With `True` each loss has a turn of its own, in the order of `reach`; a list gives
            the losses of each turn. A step (a batch) is of one turn: the losses of the others are
            reported, but not differentiated, and what they move rests, with its slots.
        combine: What makes one gradient of those of several losses that reach the same weights,
            such as `finegrain.gradients.PCGrad()`. Their sum by default.
        seed: Of `seed`, an integer.
        **kwargs: Keras's own, such as `name`.

    Raises:
        TypeError: if a network is no layer, or `losses` asks for what there is not.
        ValueError: for a network without weights, a loss that moves nothing, weights that no loss
            moves, or names that are not there.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> @keras.saving.register_keras_serializable("my_games")
    ... def losses(features, digit, domain, x, y):
    ...     hidden = features(x["image"])
    ...     of_digit = keras.losses.binary_crossentropy(y["digit"], digit(hidden))
    ...     of_domain = keras.losses.binary_crossentropy(y["domain"], domain(hidden))
    ...     of_digit, of_domain = keras.ops.mean(of_digit), keras.ops.mean(of_domain)
    ...     return {"digit": of_digit, "domain": of_domain, "hide": -0.1 * of_domain}
    >>> def head(units, activation):
    ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, activation)])
    >>> game = fg.models.Game(
    ...     dict(features=head(4, "relu"), digit=head(1, "sigmoid"), domain=head(1, "sigmoid")),
    ...     losses,
    ...     reach={"digit": ["features", "digit"], "domain": "domain", "hide": "features"},
    ... )
    >>> game.compile(fg.PerWeight("adam", [fg.Rule(game.networks["domain"], learning_rate=1e-3)]))
    >>> x, y = np.ones((8, 4), "float32"), np.ones((8, 1), "float32")
    >>> history = game.fit({"image": x}, {"digit": y, "domain": y}, verbose=0)
    >>> sorted(history.history)
    ['digit', 'domain', 'hide', 'loss']

    References:
        Su Jianlin, Cutting gradients skilfully: a GAN from a single loss, 2019,
        https://kexue.fm/archives/6387

    Notes:
        - Layers know whether they train, without being told: `training` is passed for other
          things. Statistics and seeds are updated once by each call of a network.
        - Losses that layers add in their call move the weights of their own network; those on
          weights themselves (regularizers) are added as Keras does.
        - `loss_weights` of `compile` multiply losses, by name; the reported `loss` is the weighted
          sum, with what layers add.
        - Losses that reach the same weights share one backward pass; with `combine` each has its
          own.
        - Under `mixed_float16` losses are not scaled before they are differentiated: prefer
          `mixed_bfloat16`.
    """

    _builds_networks = False
    """Whether the first data may give networks their weights."""

    def __init__(
        self,
        networks: Mapping[str, keras.layers.Layer],
        losses: Callable[..., Mapping[str, Any]],
        reach: Mapping[str, Any] | None = None,
        *,
        reports: Sequence[str] = (),
        averages: Mapping[str, tuple[str, float]] | None = None,
        turns: Any = None,
        combine: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.networks = _checked_networks(networks)
        if not self._builds_networks:
            _check_weights(self.networks)
        self.averages = _averages(averages or {}, self.networks)
        self.losses_function = losses
        self.reach = Reach(reach, self.networks)
        self.reports = _checked_reports(reports, self.reach)
        callable_ones = [*self.networks, *self.averages]
        self._takes = check_parameters(losses, [*callable_ones, *RESERVED])
        if combine is not None and not callable(combine):
            raise TypeError(
                "`combine` should be a combination of gradients, such as "
                f"finegrain.gradients.PCGrad(). Received: combine={combine!r}"
            )
        self.combine: Any = combine
        # Tracked as a part of the model's state, where the combination draws.
        self.combination_seed = getattr(combine, "generator", None)
        self.seed = seed
        self.random = keras.random.SeedGenerator(seed)
        self.turns = checked_turns(turns, list(self.reach.selectors))
        self.steps = self._count("steps")
        # The optimizer's own count, by which weights rest, begins with the optimizer.
        self.turn: Any = None if self.turns is None else self._count("turn")
        self.trackers = {
            name: keras.metrics.Mean(name) for name in [*self.reach.selectors, *self.reports]
        }
        # These are no parts of the model, and not in its files.
        self._inside = Apart(Inside())
        self._predictors: Apart = Apart({})
        self._reached: Apart = Apart(((), {}))
        self._loss_weights: dict[str, float] = {}
        if all(map(is_built, self.networks.values())):
            self._finish_building()

    def _count(self, name: str) -> Any:
        return self.add_weight(
            name=name, shape=(), dtype="int32", initializer="zeros", trainable=False
        )

    def _finish_building(self) -> None:
        """Create what depends on the weights of the networks."""
        for average in self.averages.values():
            average.create()
        self.built = True

    def compile(self, optimizer: Any = "rmsprop", loss_weights: Any = None, **kwargs: Any) -> None:
        """Set the optimizer, and Keras's other arguments of `compile` but for losses and metrics.

        Args:
            optimizer: A Keras optimizer.
            loss_weights: A number ≥ 0 for the names of losses; 1 for all others.
            **kwargs: Keras's own.
        """
        for name in ("loss", "metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{type(self).__name__} has its own losses, and reports them: leave `{name}` "
                    "out of `compile`, and let the function of losses return what you want to see, "
                    f"its name in `reports`. Received: {name}={kwargs[name]!r}"
                )
        weights = dict(loss_weights or {})
        unknown = [name for name in weights if name not in self.reach.selectors]
        if unknown:
            raise ValueError(
                f"`loss_weights` should be of {list(self.reach.selectors)}. Received: {unknown}"
            )
        self._loss_weights = {
            name: checked_number(f"loss_weights[{name!r}]", weight)
            for name, weight in weights.items()
        }
        if self.turns is not None:
            if not self.built:
                raise ValueError("Build the networks before `compile` where losses take turns.")
            variables = self.trainable_variables
            optimizer = resting(optimizer, self.turns, self._reach_of(variables), variables)
            self.turn.assign(0)
        super().compile(optimizer, **kwargs)
        if self.built:
            self._reach_of(self.trainable_variables)

    def _reach_of(self, variables: Sequence[keras.Variable]) -> dict[str, list[int]]:
        """Return for each loss the indices of the variables that it reaches."""
        key = tuple(map(id, variables))
        if self._reached.value[0] != key:
            self._reached.value = key, self.reach.of(variables)
        return self._reached.value[1]

    def get_compile_config(self) -> dict[str, Any] | None:
        """Return what `compile` was called with."""
        config = super().get_compile_config()
        return config and {**config, "loss_weights": self._loss_weights or None}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile the model as it was compiled before saving, and build the optimizer."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def call(self, inputs: Any, training: bool | None = None) -> None:
        """Do nothing: `compute_loss` calls what it needs."""
        return

    def predict(self, x: Any, network: str | None = None, **kwargs: Any) -> Any:
        """Compute what one of the networks, or of the averages, makes of the inputs.

        Args:
            x: Inputs, in the forms that Keras's `predict` takes.
            network: Its name; needed where there are several.
            **kwargs: Keras's own, such as `batch_size` and `verbose`.

        Raises:
            ValueError: if there is no such network.
        """
        return self._predictor(network).predict(x, **kwargs)

    def _predictor(self, name: str | None) -> Predictor:
        self._fetch_state()
        known = {**self.networks, **self.averages}
        if name is None and len(known) == 1:
            (name,) = known
        if name not in known:
            raise ValueError(
                f"`network` should be one of {list(known)}. Received: network={name!r}"
            )
        predictors = self._predictors.value
        if name not in predictors:
            predictors[name] = Predictor(known[name])
        return predictors[name]

    def _fetch_state(self) -> None:
        """Fetch the state from a compiled step, where a callback asks in the middle of `fit`."""
        synchronize = getattr(self, "jax_state_sync", None)
        if synchronize is not None:
            synchronize()

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Compute the weighted sum of the losses, a scalar whose gradients are routed."""
        on_weights = sum(map(ops.sum, self.losses), ops.zeros(()))
        if training:
            for average in self.averages.values():
                average.update()
        x, y, sample_weight = keras.tree.map_structure(
            lambda leaf: leaf if leaf is None else ops.convert_to_tensor(leaf),
            (x, y, sample_weight),
        )
        given = {"x": x, "y": y, "sample_weight": sample_weight}
        function = functools.partial(self._losses_of, given, training)
        if not training:
            with Overlay() as scope:
                losses, reports = function()
            scope.assign_statistics()
            total = sum([*losses.values(), *map(ops.sum, scope.losses)], on_weights)
        else:
            variables = self.trainable_variables
            result = self._routed(function, variables)
            for variable, value in result.updates:
                variable.assign(value)
            reports = result.found
            total = with_gradients(result.total, variables, result.gradients) + on_weights
            self.steps.assign_add(1)
        number = batch_size(x)
        for name, tracker in self.trackers.items():
            tracker.update_state(ops.stop_gradient(reports[name]), sample_weight=number)
        # Where a loss is linear, a weight's gradient does not depend on the weight, and its update
        # need not wait for those who read it.
        backend.compute_before_updates([total], self.trainable_variables)
        return total

    def _routed(self, function: Callable[[], Any], variables: Sequence[Any]) -> Routed:
        """Differentiate the losses, or those whose turn it is."""
        networks, reach = list(self.networks.values()), self._reach_of(variables)
        if self.turns is None:
            return routed(function, variables, reach, networks, self.combine)
        turn = self.turn % len(self.turns)
        self.turn.assign_add(1)
        branches = [
            functools.partial(
                routed,
                function,
                variables,
                {loss: reach[loss] for loss in losses},
                networks,
                self.combine,
            )
            for losses in self.turns
        ]
        return switched(turn, branches, variables, self._updated_in_a_step())

    def _updated_in_a_step(self) -> list[Any]:
        """Return what calls of the networks may assign to: statistics and seeds."""
        metrics = {id(variable) for variable in self.metrics_variables}
        return [v for v in self.variables if not v.trainable and id(v) not in metrics]

    def _losses_of(self, data: Mapping[str, Any], training: bool) -> tuple[Any, Any]:
        """Call the function of losses; return its losses, weighted, and all that it returned."""
        given = {
            **self.networks,
            **self.averages,
            **data,
            "training": training,
            "seed": self.random,
            "step": ops.convert_to_tensor(self.steps),
        }
        arguments = chosen(given, self._takes)
        found = self._inside.value(
            function=functools.partial(self.losses_function, **arguments), training=training
        )
        values = self._checked_values(found)
        return self._weighted(values), values

    def _weighted(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = self._loss_weights
        return {name: values[name] * weights.get(name, 1.0) for name in self.reach.selectors}

    def _checked_values(self, found: Any) -> dict[str, Tensor]:
        """Check the names and shapes of what the function of losses returned."""
        expected = list(self.trackers)
        if not isinstance(found, Mapping):
            raise TypeError(
                f"`losses` should return a dict of scalars named {expected}. Received: {found!r}"
            )
        if set(found) != set(expected):
            raise ValueError(
                f"`losses` should return {expected}, the names in `reach` and in `reports`. "
                f"Received: {list(found)}"
            )
        values = {name: ops.convert_to_tensor(found[name]) for name in expected}
        for name, value in values.items():
            dtype = keras.backend.standardize_dtype(value.dtype)
            if name in self.reach.selectors and not keras.backend.is_float_dtype(dtype):
                raise TypeError(
                    "A loss should be a float: numbers of another kind have no gradient. "
                    f"Received: {name!r} of dtype {dtype}"
                )
            if len(value.shape):
                raise ValueError(
                    "Each loss should be a scalar, such as the mean over a batch. "
                    f"Received: {name!r} of shape {tuple(value.shape)}"
                )
        return values

    def save_own_variables(self, store: Any) -> None:
        """Store the count of steps, and the seeds of noise and of all layers.

        Keras stores the averages with the layer that has them.
        """
        super().save_own_variables(store)
        for i, state in enumerate(self._seed_states()):
            store[f"seed_{i}"] = state

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` stored; keep what a file does not have."""
        arrays = {key: store[key] for key in store.keys()}  # noqa: SIM118, Keras's has no __iter__
        seeds = [arrays.pop(key) for key in sorted(arrays) if key.startswith("seed_")]
        if arrays:
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
        serialize = serialized
        names = {id(network): name for name, network in self.networks.items()}
        return {
            **super().get_config(),
            "networks": {name: serialize(network) for name, network in self.networks.items()},
            "losses": serialize(self.losses_function),
            "reach": self.reach.get_config(),
            "reports": list(self.reports),
            "averages": {
                name: [names[id(average.network())], average.momentum]
                for name, average in self.averages.items()
            },
            "turns": self.turns,
            "combine": serialize(self.combine),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Game:
        """Make the model that `get_config` describes."""

        def restored(part: Any) -> Any:
            return keras.saving.deserialize_keras_object(part, custom_objects=custom_objects)

        config = dict(config)
        config["networks"] = {name: restored(part) for name, part in config["networks"].items()}
        for name in ("losses", "combine"):
            config[name] = restored(config[name])
        config["reach"] = {
            loss: [one if isinstance(one, str) else restored(one) for one in selectors]
            for loss, selectors in config["reach"].items()
        }
        return cls(**config)


def _checked_networks(networks: Any) -> dict[str, keras.layers.Layer]:
    if not isinstance(networks, Mapping) or not networks:
        raise TypeError(
            "`networks` should be a dict from names to Keras models. "
            f"Received: networks={networks!r}"
        )
    for name, network in networks.items():
        if not isinstance(network, keras.layers.Layer):
            raise TypeError(
                f"`networks[{name!r}]` should be a Keras layer or model. Received: {network!r}"
            )
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
            raise ValueError(
                "A network's name should be one that a function's argument can have, and none of "
                f"{list(RESERVED)}. Received: {name!r}"
            )
        check_hidden(name, network)
    return dict(networks)


def _check_weights(networks: Mapping[str, Any]) -> None:
    missing = [name for name, network in networks.items() if not is_built(network)]
    if missing:
        raise ValueError(
            "Each network should have its weights, since what the function of losses gives to it "
            "is not known before: begin it with keras.Input, or call its `build`. "
            f"Received: {missing} without weights"
        )


def _averages(averages: Any, networks: Mapping[str, Any]) -> dict[str, WeightAverage]:
    made = {}
    for name, pair in averages.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2 or pair[0] not in networks:
            raise ValueError(
                "`averages` should be pairs of a network and a momentum, as in "
                f"{{'target': ({next(iter(networks))!r}, 0.99)}}. Received: {name!r}: {pair!r}"
            )
        if name in networks or name in RESERVED or not str(name).isidentifier():
            raise ValueError(f"The name of an average should be one of its own. Received: {name!r}")
        made[name] = WeightAverage(networks[pair[0]], pair[1], f"averages[{name!r}]", name=name)
    return made


def _checked_reports(reports: Any, reach: Reach) -> tuple[str, ...]:
    names = (reports,) if isinstance(reports, str) else tuple(reports)
    for name in names:
        if not isinstance(name, str) or name in reach.selectors or name == "loss":
            raise ValueError(
                "`reports` should be names of what the function of losses returns besides losses. "
                f"Received: {name!r}"
            )
    return names
