"""What PerWeight costs: a step of the optimizer alone, and a step of `fit`, against its rivals."""

from __future__ import annotations

import argparse
import datetime
import statistics
import time
from typing import Any

from _common import Run, alternating, benchmark, ratios, table, versions
from _steps import LAYERS, WIDTH, optimizer_step, variables

GROUPS = (1, 2, 12, 26)
DEPTH, MODEL_WIDTH, HEADS, LENGTH, BATCH, STEPS = 6, 128, 4, 64, 16, 10


def group_patterns(groups: int) -> list[str]:
    """Return regular expressions that divide the layers `layer_00` … into so many groups.

    The first of the `groups` groups is what no expression selects.
    """
    members: list[list[str]] = [[] for _ in range(groups)]
    for layer in range(LAYERS):
        members[layer * groups // LAYERS].append(f"layer_{layer:02d}")
    return [f"({'|'.join(names)})/.*" for names in members[1:]]


def rules(groups: int) -> list[Any]:
    import finegrain as fg

    return [
        fg.Rule(pattern, learning_rate_multiplier=0.5 + 0.05 * index)
        for index, pattern in enumerate(group_patterns(groups))
    ]


def multi_optimizer(groups: int) -> Any:
    import keras

    optimizers = {
        pattern: keras.optimizers.Adam(1e-3 * (0.5 + 0.05 * index), name=f"adam_group_{index}")
        for index, pattern in enumerate(group_patterns(groups))
    }
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.Adam(1e-3), optimizers)
    )


def torch_param_groups(groups: int, repeat: int) -> Any:
    import torch

    weights = [torch.nn.Parameter(v.value.detach().clone()) for v in variables()]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    layers = [weights[2 * index : 2 * index + 2] for index in range(LAYERS)]
    members: list[list[Any]] = [[] for _ in range(groups)]
    for index, layer in enumerate(layers):
        members[index * groups // LAYERS] += layer
    optimizer = torch.optim.Adam([{"params": m, "lr": 1e-3} for m in members], foreach=True)

    def run() -> None:
        for _ in range(repeat):
            optimizer.step()

    return run


def optax_multi_transform(groups: int, repeat: int) -> Any:
    import jax
    import optax

    weights = {f"w{index:03d}": v.value + 0 for index, v in enumerate(variables())}
    gradients = jax.tree.map(lambda w: w + 1.0, weights)
    labels = {
        name: str((index // 2) * groups // LAYERS) for index, name in enumerate(sorted(weights))
    }
    optimizer = optax.multi_transform(
        {str(index): optax.adam(1e-3 * (0.5 + 0.05 * index)) for index in range(groups)}, labels
    )

    def one(state: Any, weights: Any) -> Any:
        updates, state = optimizer.update(gradients, state, weights)
        return state, optax.apply_updates(weights, updates)

    step = jax.jit(one, donate_argnums=(0, 1))
    held = [optimizer.init(weights), weights]

    def run() -> None:
        for _ in range(repeat):
            held[0], held[1] = step(*held)
        jax.block_until_ready(held)

    return run


def measure_steps(arguments: argparse.Namespace) -> dict[str, Any]:
    import keras

    import finegrain as fg

    backend = keras.backend.backend()
    repeat = 20
    contenders = {"plain": optimizer_step(keras.optimizers.Adam(1e-3), repeat, xla=False)}
    for groups in GROUPS[:2] if arguments.quick else GROUPS:
        per_weight = fg.PerWeight(keras.optimizers.Adam(1e-3), rules(groups))
        contenders[f"PerWeight {groups}"] = optimizer_step(per_weight, repeat, xla=False)
        contenders[f"MultiOptimizer {groups}"] = optimizer_step(
            multi_optimizer(groups), repeat, xla=False
        )
        if backend == "torch":
            contenders[f"param_groups {groups}"] = torch_param_groups(groups, repeat)
        if backend == "jax":
            contenders[f"multi_transform {groups}"] = optax_multi_transform(groups, repeat)
    times = alternating(contenders, arguments.rounds)
    return {
        "milliseconds": 1000 * statistics.median(times["plain"]) / repeat,
        "ratios": ratios(times, "plain"),
    }


def transformer() -> Any:
    """Make a model of six blocks of attention and feed-forward layers, named in 26 parts."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    tokens = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(1000, MODEL_WIDTH, name="layer_00")(tokens)
    for block in range(DEPTH):
        first = 1 + 4 * block
        attention = layers.MultiHeadAttention(
            HEADS, MODEL_WIDTH // HEADS, name=f"layer_{first:02d}"
        )
        y = layers.LayerNormalization(name=f"layer_{first + 1:02d}")(x)
        x = x + attention(y, y)
        y = layers.LayerNormalization(name=f"norm_{block}")(x)
        y = layers.Dense(4 * MODEL_WIDTH, activation="gelu", name=f"layer_{first + 2:02d}")(y)
        x = x + layers.Dense(MODEL_WIDTH, name=f"layer_{first + 3:02d}")(y)
    return keras.Model(tokens, layers.Dense(10, name="layer_25")(x))


def fit_steps(optimizer: Any, callbacks: Any = ()) -> Any:
    """Make a function that fits a transformer for `STEPS` steps."""
    import keras
    import numpy as np

    model = transformer()
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    random = np.random.default_rng(0)
    x = random.integers(0, 1000, (STEPS * BATCH, LENGTH))
    y = x % 10

    def run() -> None:
        model.fit(x, y, batch_size=BATCH, verbose=0, shuffle=False, callbacks=list(callbacks))

    return run


def measure_fit(arguments: argparse.Namespace) -> dict[str, Any]:
    import keras

    import finegrain as fg

    def adam() -> Any:
        return keras.optimizers.Adam(1e-3)

    contenders = {"plain": fit_steps(adam())}
    for groups in GROUPS[-1:] if arguments.quick else GROUPS[1:]:
        contenders[f"PerWeight {groups}"] = fit_steps(fg.PerWeight(adam(), rules(groups)))
    if not arguments.quick:
        contenders["MultiOptimizer 26"] = fit_steps(multi_optimizer(26))
    watch = fg.callbacks.Watch(every=50)
    contenders["PerWeight 26, Watch"] = fit_steps(fg.PerWeight(adam(), rules(26)), [watch])
    rounds, warm_up = (1, 1) if arguments.quick else (max(arguments.rounds // 2, 3), 2)
    times = alternating(contenders, rounds, warm_up)
    found = ratios(times, "plain")
    overhead = ratios(times, "PerWeight 26")["PerWeight 26, Watch"]
    return {
        "milliseconds": 1000 * statistics.median(times["plain"]) / STEPS,
        "ratios": found,
        "watch": overhead,
    }


def blocks() -> Any:
    """Make the same transformer of layers that are blocks, as pretrained models have them."""
    import keras
    from keras import layers

    class Block(layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.norms = [layers.LayerNormalization() for _ in range(2)]
            self.attention = layers.MultiHeadAttention(HEADS, MODEL_WIDTH // HEADS)
            self.wide = layers.Dense(4 * MODEL_WIDTH, activation="gelu")
            self.narrow = layers.Dense(MODEL_WIDTH)

        def call(self, x: Any) -> Any:
            y = self.norms[0](x)
            x = x + self.attention(y, y)
            return x + self.narrow(self.wide(self.norms[1](x)))

    keras.utils.set_random_seed(0)
    tokens = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(1000, MODEL_WIDTH)(tokens)
    for _ in range(DEPTH):
        x = Block()(x)
    return keras.Model(tokens, layers.Dense(10)(x))


def recipes() -> dict[str, Any]:
    """Name what the recipes make of a model."""
    from finegrain import recipes as r

    return {
        "layer_decay": lambda model: r.layer_decay(model, 0.75),
        "no_weight_decay": r.no_weight_decay,
        "layer_decay, no_weight_decay, head_first": lambda model: [
            *r.layer_decay(model, 0.75),
            *r.no_weight_decay(model),
            *r.head_first(model, 10),
        ],
    }


def measure_recipes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the CPU time of a step of `fit` under recipes, and that of the first step."""
    import keras
    import numpy as np

    import finegrain as fg

    random = np.random.default_rng(0)
    x = random.integers(0, 1000, (STEPS * BATCH, LENGTH))
    y = x % 10

    def made(rules: Any) -> tuple[Any, float]:
        model = blocks()
        optimizer = keras.optimizers.AdamW(1e-3)
        if rules is not None:
            optimizer = fg.PerWeight(optimizer, rules(model))
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        begin = time.process_time()
        model.fit(x[:BATCH], y[:BATCH], batch_size=BATCH, verbose=0)
        return model, time.process_time() - begin

    every = {"plain": None, **recipes()}
    made(None)  # what is compiled once in a process
    models, firsts = {}, {name: [] for name in every}
    rounds = 1 if arguments.quick else max(arguments.rounds // 2, 3)
    for _ in range(1 if arguments.quick else 3):
        for name, rules in every.items():
            models[name], first = made(rules)
            firsts[name].append(first)
    times = {name: [] for name in every}
    for _ in range(rounds):
        for name, model in models.items():
            begin = time.process_time()
            model.fit(x, y, batch_size=BATCH, verbose=0, shuffle=False)
            times[name].append(time.process_time() - begin)
    return {
        "milliseconds": 1000 * statistics.median(times["plain"]) / STEPS,
        "ratios": ratios(times, "plain"),
        "first_seconds": statistics.median(firsts["plain"]),
        "first_ratios": ratios(firsts, "plain"),
        "date": datetime.date.today().isoformat(),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import keras

    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        torch.set_num_threads(1)
    packages = ["keras", backend] + (["optax"] if backend == "jax" else [])
    result: dict[str, Any] = {"versions": versions(*packages)}
    measured = {"step": measure_steps, "fit": measure_fit, "recipes": measure_recipes}
    for name, compare in measured.items():
        if arguments.only in (None, name):
            result[name] = compare(arguments)
    return result


def page(run: Run) -> str:
    """Format the tables as a page of the docs."""
    parts = [
        "# What PerWeight costs\n\n"
        "Ratios to the plain Keras Adam; below 1 is faster. Medians over the rounds of a run in "
        "one process in which all take turns, one thread each.\n\n"
        + run.source(f"benchmarks/per_weight.py --rounds {run.rounds}")
    ]
    header = ["", *(f"{groups} groups" if groups > 1 else "1 group" for groups in GROUPS)]
    for backend, result in run.results.items():
        names = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        parts.append(f"\n## {backend} ({names})\n")
        if "step" in result:
            step = result["step"]
            parts.append(
                f"\nThe optimizer's step alone, {2 * LAYERS} weights, {LAYERS} × ({WIDTH}×{WIDTH} "
                f"+ {WIDTH}); plain Adam takes {step['milliseconds']:.2f} ms:\n\n"
            )
            kinds = list(dict.fromkeys(name.split()[0] for name in step["ratios"]))[1:]
            names = [[f"{kind} {groups}" for groups in GROUPS] for kind in kinds]
            found = step["ratios"]
            rows = [
                [kind, *(f"{found[name]:.2f}" if name in found else "–" for name in row)]
                for kind, row in zip(kinds, names, strict=True)
            ]
            parts.append(table(header, rows))
        if "fit" in result:
            fit = result["fit"]
            parts.append(
                f"\nA step of `fit`, a transformer of {DEPTH} blocks of width {MODEL_WIDTH} on "
                f"{BATCH} × {LENGTH} tokens; with plain Adam {fit['milliseconds']:.0f} ms:\n\n"
            )
            names = [name for name in fit["ratios"] if name != "plain"]
            parts.append(table(["", "ratio"], [[n, f"{fit['ratios'][n]:.3f}"] for n in names]))
            parts.append(f"\n`Watch(every=50)` by itself: {fit['watch']:.3f}.\n")
        if "recipes" in result:
            found = result["recipes"]
            parts.append(
                f"\nRecipes round AdamW ({found['date']}), CPU time beside plain AdamW: a step of "
                "`fit` as above "
                f"({found['milliseconds']:.0f} ms), and the first step of a model, which builds "
                f"and compiles it ({found['first_seconds']:.1f} s):\n\n"
            )
            rows = [
                [name, f"{ratio:.3f}", f"{found['first_ratios'][name]:.2f}"]
                for name, ratio in found["ratios"].items()
                if name != "plain"
            ]
            parts.append(table(["", "a step", "the first step"], rows))
    return "".join(parts)


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=["step", "fit", "recipes"], help="one comparison")


if __name__ == "__main__":
    benchmark(__file__, measure, page, add)
