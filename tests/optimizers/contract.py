"""What the optimizers' tests share: the table of optimizers, small models, data, comparisons.

A new optimizer gets every test of `test_contract.py` by one line in `OPTIMIZERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import optimizers

import drawn
import finegrain as fg
from compiling import JIT

LEARNING_RATE = 0.05


def step_size(
    learning_rate: Any, rule: Any = None, **arguments: Any
) -> fg.optimizers.AdaptiveStepSize:
    """Learned step sizes round Adam."""
    return fg.optimizers.AdaptiveStepSize(optimizers.Adam(learning_rate), rule, **arguments)


def extragradient(learning_rate: Any, **arguments: Any) -> fg.optimizers.Extragradient:
    """Pairs of steps of Adam."""
    return fg.optimizers.Extragradient(optimizers.Adam(learning_rate), **arguments)


def optimistic(learning_rate: Any, **arguments: Any) -> fg.optimizers.Optimistic:
    """Optimistic Adam."""
    return fg.optimizers.Optimistic(optimizers.Adam(learning_rate), **arguments)


OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    name: partial(factory, **{"learning_rate": LEARNING_RATE, **arguments})
    for name, factory, arguments in [
        ("sgd", optimizers.SGD, {}),
        ("sgd_momentum", optimizers.SGD, {"momentum": 0.9}),
        ("sgd_nesterov", optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
        ("rmsprop", optimizers.RMSprop, {}),
        ("adam", optimizers.Adam, {}),
        ("adam_amsgrad", optimizers.Adam, {"amsgrad": True}),
        ("adamw", optimizers.AdamW, {"weight_decay": 0.05}),
        ("adadelta", optimizers.Adadelta, {}),
        ("adagrad", optimizers.Adagrad, {}),
        ("adamax", optimizers.Adamax, {}),
        ("adafactor", optimizers.Adafactor, {}),
        ("nadam", optimizers.Nadam, {}),
        ("ftrl", optimizers.Ftrl, {}),
        ("lion", optimizers.Lion, {}),
        ("lamb", optimizers.Lamb, {}),
        ("muon", optimizers.Muon, {}),
        ("schedule_free_adamw", optimizers.ScheduleFreeAdamW, {"weight_decay": 0.05}),
        (
            "adaptive_moments",
            fg.optimizers.AdaptiveMoments,
            {"averaging": fg.optimizers.PowerDecay()},
        ),
        ("adax", fg.optimizers.AdaX, {"weight_decay": 0.05}),
        ("muon_axes", fg.optimizers.Muon, {"axes": "oi"}),
        ("exponentiated_gradient", fg.optimizers.ExponentiatedGradient, {}),
        ("adaptive_step_size", step_size, {"rule": fg.optimizers.SignGains()}),
        ("extragradient", extragradient, {}),
        ("optimistic", optimistic, {}),
    ]
}
"""Name → factory that takes the optimizer's arguments."""

TRIED = ["sgd_momentum", "adam", "nadam", "adafactor", "schedule_free_adamw"]
"""Those that stand for all in a selection: they differ in slots and in what a step remembers."""

OWN = {
    **{
        name: OPTIMIZERS[name]
        for name in (
            "adaptive_moments",
            "adax",
            "muon_axes",
            "exponentiated_gradient",
            "adaptive_step_size",
            "extragradient",
            "optimistic",
        )
    },
    "adaptive_step_size_scale": partial(step_size, learning_rate=LEARNING_RATE),
    "adaptive_step_size_product": partial(
        step_size, learning_rate=LEARNING_RATE, rule=fg.optimizers.ProductGains(1e-4)
    ),
}
"""The library's own, with what cannot be one of several groups: one step size for all weights."""

WITHOUT_WEIGHT_DECAY = {"exponentiated_gradient"}

_random = drawn.generator(7)
X = _random.normal(size=(16, 3)).astype("float32")
Y = _random.normal(size=(16, 2)).astype("float32")

Weights = list[np.ndarray]


def mlp() -> keras.Model:
    """Two dense layers, `encoder` and `head`, with the same weights at every call."""
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, activation="tanh", name="encoder")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))
    fill(model)
    return model


def fill(model: keras.Model, seed: int = 11) -> None:
    """Gives `model` weights that depend on `seed` only, all > 0, which any optimizer takes."""
    random = drawn.generator(seed)
    weights = [np.abs(random.normal(size=w.shape)) + 0.1 for w in model.get_weights()]
    model.set_weights([weight.astype("float32") for weight in weights])


def groups(encoder: float = 1.0, bias: float = 1.0) -> list[fg.Rule]:
    """Rules that part the weights of `mlp` into three groups.

    They are the encoder's kernel, both biases (the last rule wins), and the head's kernel.
    """
    return [
        fg.Rule("encoder", learning_rate_multiplier=encoder),
        fg.Rule("bias$", learning_rate_multiplier=bias),
    ]


def compiled(
    optimizer: keras.optimizers.Optimizer, model: keras.Model | None = None, *, jit: bool = False
) -> keras.Model:
    """`model` (by default `mlp()`) with `optimizer`, compiled or step by step."""
    model = mlp() if model is None else model
    if jit:
        model.compile(optimizer, "mse", jit_compile=JIT)
    else:
        model.compile(optimizer, "mse", run_eagerly=True)
    return model


def train(
    model: keras.Model,
    x: np.ndarray = X,
    y: np.ndarray = Y,
    *,
    epochs: int = 1,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """`model` after `epochs` of four steps each on the same data in the same order."""
    model.fit(
        x,
        y,
        batch_size=len(x) // 4,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )
    return model


def unit_slope_model() -> keras.Model:
    """A model whose loss `mean_output` has gradient 1 in each weight: `head/kernel`, `head/bias`.

    All weights begin at 0 and the inputs are `ONES`, so that a step of SGD moves a weight by just
    minus its learning rate.
    """
    return keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(1, kernel_initializer="zeros", name="head"),
        ]
    )


ONES = np.ones((4, 1), "float32")


def mean_output(y_true: Any, y_pred: Any) -> Any:
    """A loss that pays no heed to the targets."""
    return keras.ops.mean(y_pred, axis=-1)


def random_gradients(weights: Sequence[keras.Variable], steps: int = 3) -> list[list[Any]]:
    """For each of `steps` a list of gradients, the same ones at every call."""
    random = drawn.generator(5)
    return [
        [
            keras.ops.convert_to_tensor(random.normal(size=w.shape).astype("float32"))
            for w in weights
        ]
        for _ in range(steps)
    ]


def push(model: keras.Model, steps: int = 3) -> keras.Model:
    """`model` after some steps of its optimizer with gradients that depend on nothing."""
    for gradients in random_gradients(model.trainable_variables, steps):
        model.optimizer.apply(gradients, model.trainable_variables)
    return model


def values(variables: Sequence[keras.Variable]) -> Weights:
    """What the variables hold now, as arrays of their own."""
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]


def state(optimizer: keras.optimizers.Optimizer) -> dict[str, np.ndarray]:
    """What a file would hold of `optimizer`."""
    store: dict[str, np.ndarray] = {}
    optimizer.save_own_variables(store)
    return store


def assert_moved(model: keras.Model) -> None:
    """Each weight of an `mlp()` has left its beginning: else nothing is shown by equality."""
    for start, now in zip(values(mlp().weights), values(model.weights), strict=True):
        assert np.isfinite(now).all()
        assert not np.array_equal(start, now)


def assert_bit_equal(model: keras.Model, other: keras.Model) -> None:
    """All weights agree to the last bit."""
    for mine, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(*values([mine, theirs]), err_msg=mine.path, strict=True)


def with_rules(name: str) -> keras.optimizers.Optimizer:
    """The optimizer under rules; those of `"round_rules"` go round a `PerWeight`."""
    if name == "extragradient_round_rules":
        return fg.optimizers.Extragradient(
            fg.PerWeight(optimizers.Adam(LEARNING_RATE), groups(0.1, 2.0))
        )
    if name == "round_rules":
        # Its steps are bounded together: at a twentieth of the others weights would hardly move.
        per_weight = fg.PerWeight(optimizers.Adam(LEARNING_RATE), groups(0.5, 2.0))
        return fg.optimizers.AdaptiveStepSize(per_weight)
    return fg.PerWeight(OPTIMIZERS[name](), groups(0.1, 2.0))


def write_checkpoints(folder: str, names: Sequence[str]) -> None:
    """Writes `{name}.keras` after some steps and, after some more, the weights to `{name}.npz`.

    Another backend loads the file, goes on by itself and compares.
    """
    for name in names:
        model = push(compiled(with_rules(name)))
        model.save(f"{folder}/{name}.keras")
        np.savez(f"{folder}/{name}.npz", *values(push(model).weights))


def rule(weights: Any, multiplier: float = 1.0, name: str | None = None, **others: Any) -> fg.Rule:
    """A rule with a multiplier."""
    return fg.Rule(weights, learning_rate_multiplier=multiplier, name=name, **others)


def variables(**arrays: Any) -> list[keras.Variable]:
    """Weights of these names and values."""
    return [keras.Variable(np.array(v, "float32"), name=name) for name, v in arrays.items()]


def apply(
    optimizer: keras.optimizers.Optimizer,
    weights: Sequence[keras.Variable] | None,
    gradients: Sequence[Any],
) -> None:
    """One step from gradients given as plain numbers."""
    optimizer.apply(
        [
            g if g is None else keras.ops.convert_to_tensor(np.array(g, "float32"))
            for g in gradients
        ],
        weights,
    )


def fit_ones(
    model: keras.Model, epochs: int = 1, callbacks: Sequence[keras.callbacks.Callback] = ()
) -> dict[str, list[float]]:
    """The history of a `unit_slope_model` after one step per epoch."""
    return model.fit(ONES, ONES, epochs=epochs, verbose=0, callbacks=list(callbacks)).history


def kernel_and_bias(model: keras.Model) -> list[float]:
    """The two numbers of a `unit_slope_model`."""
    return [float(v.reshape(())) for v in values(model.weights)]


def two_towers() -> keras.Model:
    """The sum of two linear layers, `body` and `head`, each of an input of its own.

    With `mean_output` as loss the inputs' means are the gradients, whatever the outputs are.
    """
    inputs = [keras.Input((3,)), keras.Input((3,))]
    body = keras.layers.Dense(1, use_bias=False, name="body")(inputs[0])
    head = keras.layers.Dense(1, use_bias=False, name="head")(inputs[1])
    model = keras.Model(inputs, keras.layers.Add()([body, head]))
    fill(model)
    return model
