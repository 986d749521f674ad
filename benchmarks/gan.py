"""What a step of a GAN costs: one loss against taking turns, in operations and in time.

Each step computes all gradients and lets Adam apply them. Taking turns, the discriminator learns
first, then the generator through the new discriminator, each computing no gradient but its own:
with new noise for each, or with the same samples for both. XLA counts the operations, on JAX.
Needs `pip install '.[bench]'`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from _common import Run, alternating, benchmark, ratios, table, versions

BATCH, LATENT = 64, 64
BASE = "two turns"
# Seconds: what takes less runs several times in its turn.
TURN = 0.05


def dcgan() -> tuple[Any, Any]:
    """Make a convolutional generator and discriminator for 28 × 28 pixels.

    The generator does more of the work.
    """
    import keras
    from keras import layers

    import finegrain as fg

    generator = [
        keras.Input((LATENT,)),
        layers.Dense(7 * 7 * 64),
        layers.Reshape((7, 7, 64)),
        layers.LeakyReLU(0.2),
        fg.layers.Conv2DTranspose(64, 4, 2, "same"),
        layers.LeakyReLU(0.2),
        fg.layers.Conv2DTranspose(32, 4, 2, "same"),
        layers.LeakyReLU(0.2),
        layers.Conv2D(1, 5, padding="same", activation="tanh"),
    ]
    discriminator: list[Any] = [keras.Input((28, 28, 1))]
    for filters in (32, 64, 128):
        discriminator += [layers.Conv2D(filters, 4, 2, "same"), layers.LeakyReLU(0.2)]
    discriminator += [layers.Flatten(), layers.Dense(1)]
    return keras.Sequential(generator), keras.Sequential(discriminator)


def mlp() -> tuple[Any, Any]:
    """Make a generator and a discriminator with two hidden layers of 512 units each."""
    import keras
    from keras import layers

    def network(inputs: int, outputs: int, activation: str | None) -> Any:
        hidden = [layers.Dense(512), layers.LeakyReLU(0.2)]
        hidden += [layers.Dense(512), layers.LeakyReLU(0.2)]
        last = layers.Dense(outputs, activation=activation)
        return keras.Sequential([keras.Input((inputs,)), *hidden, last])

    return network(LATENT, 784, "tanh"), network(784, 1, None)


PAIRS = {"DCGAN": (dcgan, (28, 28, 1)), "MLP": (mlp, (784,))}


class Turn:
    """A loss of real samples, and the weights that learn from it with an optimizer of their own.

    Attributes:
        loss: The loss of a batch.
        weights: What learns from it.
        others: What else it reads and changes: weights, seeds, metrics.
        optimizer: The optimizer.
    """

    def __init__(self, loss: Callable[[Any], Any], weights: list[Any], others: list[Any]) -> None:
        import keras

        self.loss, self.weights, self.others = loss, weights, others
        self.optimizer = keras.optimizers.Adam(2e-4, beta_1=0.5)
        self.optimizer.build(weights)


def game(pair: Any) -> list[Turn]:
    import finegrain as fg

    gan = fg.models.GAN(*pair)
    others = gan.non_trainable_variables + gan.metrics_variables
    return [Turn(gan.compute_loss, gan.trainable_variables, others)]


def by_hand(pair: Any, subtraction: bool) -> list[Turn]:
    """Make one loss by stopped gradients alone, as the source does, or with constant weights."""
    import keras
    from keras import ops

    import finegrain as fg

    generator, discriminator = pair
    seed = keras.random.SeedGenerator(0)

    def loss(real: Any) -> Any:
        fake = generator(keras.random.normal((BATCH, LATENT), seed=seed), training=True)
        score = discriminator(real, training=True)
        constant = discriminator(ops.stop_gradient(fake), training=True)
        if subtraction:
            of_generator = ops.mean(constant) - ops.mean(discriminator(fake, training=True))
        else:
            judge = fg.routing.constant_weights(discriminator)
            of_generator = -ops.mean(judge(fake, training=True))
        return ops.mean(ops.relu(1 - score)) + ops.mean(ops.relu(1 + constant)) + of_generator

    weights = generator.trainable_variables + discriminator.trainable_variables
    return [Turn(loss, weights, [seed.state])]


def two_turns(pair: Any, same_samples: bool) -> list[Turn]:
    import keras
    from keras import ops

    generator, discriminator = pair
    seed = keras.random.SeedGenerator(0)
    drawn: list[Any] = []

    def samples(again: bool) -> Any:
        if again and keras.backend.backend() == "torch":  # What a compiler does by itself.
            return drawn[0][1]
        noise = drawn[0][0] if again else keras.random.normal((BATCH, LATENT), seed=seed)
        drawn[:] = [(noise, generator(noise, training=True))]
        return drawn[0][1]

    def of_discriminator(real: Any) -> Any:
        score = discriminator(real, training=True)
        fake = discriminator(ops.stop_gradient(samples(False)), training=True)
        return ops.mean(ops.relu(1 - score)) + ops.mean(ops.relu(1 + fake))

    def of_generator(real: Any) -> Any:
        return -ops.mean(discriminator(samples(same_samples), training=True))

    players = (discriminator.trainable_variables, generator.trainable_variables)
    return [
        Turn(of_discriminator, players[0], [*players[1], seed.state]),
        Turn(of_generator, players[1], [*players[0], seed.state]),
    ]


def on_jax(turns: list[Turn], real: Any) -> tuple[Callable[[], None], float]:
    """Compile a step, and count its operations."""
    import jax
    import keras

    parts = [(*turn.weights, *turn.others, *turn.optimizer.variables) for turn in turns]
    variables = list({id(v): v for part in parts for v in part}.values())

    def step(values: list[Any], real: Any) -> list[Any]:
        now = {id(v): value for v, value in zip(variables, values, strict=True)}

        def read(variables: list[Any]) -> list[Any]:
            return [now[id(v)] for v in variables]

        def write(variables: list[Any], values: list[Any]) -> None:
            now.update({id(v): value for v, value in zip(variables, values, strict=True)})

        for turn in turns:

            def loss(weights: list[Any], turn: Turn = turn) -> Any:
                held = [*turn.weights, *turn.others]
                values = [*weights, *read(turn.others)]
                with keras.StatelessScope(list(zip(held, values, strict=True))) as scope:
                    value = turn.loss(real)
                return value, [scope.get_current_value(v) for v in turn.others]

            weights, slots = read(turn.weights), read(turn.optimizer.variables)
            gradients, others = jax.grad(loss, has_aux=True)(weights)
            weights, slots = turn.optimizer.stateless_apply(slots, gradients, weights)
            write(turn.weights, weights)
            write(turn.others, others)
            write(turn.optimizer.variables, slots)
        return read(variables)

    values = [v.value + 0 for v in variables]
    compiled = jax.jit(step, donate_argnums=0).lower(values, real).compile()
    held = [values]

    def run() -> None:
        held[0] = compiled(held[0], real)
        jax.block_until_ready(held[0])

    return run, compiled.cost_analysis()["flops"]


def on_torch(turns: list[Turn], real: Any) -> tuple[Callable[[], None], None]:
    import torch

    def run() -> None:
        for turn in turns:
            gradients = torch.autograd.grad(turn.loss(real), [v.value for v in turn.weights])
            with torch.no_grad():
                turn.optimizer.apply(list(gradients), turn.weights)

    return run, None


def on_tensorflow(turns: list[Turn], real: Any) -> tuple[Callable[[], None], None]:
    import tensorflow as tf

    @tf.function(jit_compile=True, autograph=False)
    def run() -> None:
        for turn in turns:
            weights = [v.value for v in turn.weights]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                loss = turn.loss(real)
            turn.optimizer.apply(tape.gradient(loss, weights), turn.weights)

    return run, None


STEPS = {"jax": on_jax, "torch": on_torch, "tensorflow": on_tensorflow}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import keras

    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        torch.set_num_threads(1)
    result: dict[str, Any] = {"versions": versions("keras", backend)}
    for name in ["MLP"] if arguments.quick else arguments.pairs:
        networks, shape = PAIRS[name]
        forms: dict[str, Callable[[Any], list[Turn]]] = {
            BASE: lambda pair: two_turns(pair, same_samples=False),
            "two turns, same samples": lambda pair: two_turns(pair, same_samples=True),
            "subtraction": lambda pair: by_hand(pair, True),
            "constant weights": lambda pair: by_hand(pair, False),
            "GAN": game,
        }
        random = np.random.default_rng(0)
        real = keras.ops.convert_to_tensor(random.normal(size=(BATCH, *shape)).astype("float32"))
        contenders, operations = {}, {}
        for form, turns in forms.items():
            pair = networks()
            contenders[form], operations[form] = STEPS[backend](turns(pair), real)
        times = alternating(contenders, arguments.rounds, least=TURN)
        result[name] = {
            "milliseconds": {form: 1000 * statistics.median(own) for form, own in times.items()},
            "ratios": ratios(times, BASE),
        }
        if backend == "jax":
            result[name]["gigaflops"] = {form: own / 1e9 for form, own in operations.items()}
        print(f"{name}: {result[name]}", flush=True)
    return result


def page(run: Run) -> str:
    """Format the tables as a page of the docs."""
    parts = [
        "# What a step of a GAN costs\n\n"
        f"Batches of {BATCH}, float32, one thread, Adam. **Two turns** is how GANs are usually "
        "trained: the discriminator learns, then the generator, each from new noise, each "
        "computing the gradients of its own weights alone. With the *same samples* the generator "
        "runs once for both. **Subtraction** is the source's single loss, and **constant weights** "
        "the same by `finegrain.routing.constant_weights`; **GAN** is `fg.models.GAN`, which "
        "differentiates each loss for its own network alone. Times are medians over rounds in "
        "which all take turns of 50 ms or more in one process; in brackets, the median ratio to "
        "two turns.\n\n" + run.source(f"benchmarks/gan.py --rounds {run.rounds}")
    ]
    forms = list(
        dict.fromkeys(
            f
            for r in run.results.values()
            for n in PAIRS
            for f in r.get(n, {"ratios": {}})["ratios"]
        )
    )
    counted = run.results.get("jax", {})
    if counted:
        parts.append("\n## Operations\n\nGFLOP of a compiled step on JAX, as XLA counts them:\n\n")
        rows = []
        for name in PAIRS:
            if name in counted:
                own = counted[name]["gigaflops"]
                rows.append([name, *(f"{own[f]:.2f} ({own[f] / own[BASE]:.2f})" for f in forms)])
        parts.append(table(["", *forms], rows))
    parts.append("\n## Time\n\nMilliseconds of a step:\n\n")
    modes = {"jax": "JAX, jit", "torch": "PyTorch, eager", "tensorflow": "TensorFlow, XLA"}
    rows = []
    for name in PAIRS:
        for backend, result in run.results.items():
            if name in result:
                own, by = result[name]["milliseconds"], result[name]["ratios"]
                cells = [f"{own[f]:.1f} ({by[f]:.2f})" for f in forms]
                rows.append([f"{name}, {modes[backend]}", *cells])
    parts.append(table(["", *forms], rows))
    used = {k: v for result in run.results.values() for k, v in result["versions"].items()}
    parts.append("\n" + ", ".join(f"{k} {v}" for k, v in used.items()) + ".\n")
    return "".join(parts)


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS))


if __name__ == "__main__":
    benchmark(__file__, measure, page, add)
