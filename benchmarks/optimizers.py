"""AdaX, Adam, AdamW and Adafactor on the same tasks, each tuned alike; and what a step costs.

Each optimizer trains each task with three seeds at each of 13 learning rates between 1e-4 and 0.1,
2,000 steps at a constant rate; the table shows the loss at its best rate. Results are kept as they
come. The steps of AdaX and Keras's Adam are timed on each backend. Needs JAX for the tasks and
`pip install '.[bench]'`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from _common import DOCS, alternating, machine, on_each_backend, ratios, table, versions
from _steps import LAYERS, WIDTH, optimizer_step

GRID = list(np.geomspace(1e-4, 1e-1, 13))
SEEDS = [0, 1, 2]


def makers() -> dict[str, Callable[[], Any]]:
    import keras

    import finegrain as fg

    k, own = keras.optimizers, fg.optimizers
    return {
        "Adam": lambda: k.Adam(1e-3),
        "AdamW, decay 0.05": lambda: k.AdamW(1e-3, weight_decay=0.05),
        "Adafactor": lambda: k.Adafactor(1e-3, relative_step=False),
        "AdaX": lambda: own.AdaX(1e-3),
        "AdaX-W, decay 0.05": lambda: own.AdaX(1e-3, weight_decay=0.05),
        "PowerDecay(0.8)": lambda: own.AdaptiveMoments(1e-3, decay=own.PowerDecay(0.8)),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians of the ratios to Keras's Adam of a step alone."""
    import keras

    import finegrain as fg

    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        torch.set_num_threads(1)
    own, adam = fg.optimizers, keras.optimizers.Adam
    contenders = {
        "Keras Adam": adam(1e-3),
        "AdaptiveMoments": own.AdaptiveMoments(1e-3),
        "AdaX": own.AdaX(1e-3),
        "AdaptiveStepSize(Adam), scale": own.AdaptiveStepSize(adam(1e-3)),
        "AdaptiveStepSize(Adam), sign": own.AdaptiveStepSize(adam(1e-3), "sign"),
    }
    steps = {name: optimizer_step(optimizer, 20) for name, optimizer in contenders.items()}
    times = alternating(steps, arguments.rounds)
    return {
        "versions": versions("keras", backend),
        "milliseconds": 1000 * statistics.median(times["Keras Adam"]) / 20,
        "ratios": ratios(times, "Keras Adam"),
    }


def page(results: dict[str, Any], tasks: list[str]) -> str:
    """The tables, as a page of the docs."""
    from _learning import means

    names = list(makers())
    parts = [
        "# AdaX beside its relatives\n\n"
        "Final losses at the best of 13 learning rates between 1e-4 and 0.1, chosen for each "
        f"optimizer, task and part of the data; means over the seeds {SEEDS}; 2,000 steps at a "
        "constant rate. inf: at each rate a run diverged.\n\n"
        f"Machine: {machine()}. Again on yours: `python benchmarks/optimizers.py`.\n"
    ]
    for part in ("train", "validation"):
        rows = []
        for task in tasks:
            found = [results.get(f"{task}/{name}") for name in names]
            if any(found):
                cells = ["" if r is None else f"{means(r, part).min():.4g}" for r in found]
                rows.append([task, *cells])
        parts.append(f"\n## {part.title()} loss\n\n" + table(["task", *names], rows))
    rows = []
    for backend in ("jax", "torch", "tensorflow"):
        cost = results.get(f"cost/{backend}")
        if cost is not None:
            own = [f"{ratio:.2f}" for ratio in cost["ratios"].values()]
            rows.append([backend, f"{cost['milliseconds']:.2f} ms", *own[1:]])
            header = ["", *cost["ratios"]]
    if rows:
        parts.append(
            "\n## What a step costs\n\n"
            f"The optimizer's step alone on {2 * LAYERS} weights, {LAYERS} × ({WIDTH}×{WIDTH} + "
            f"{WIDTH}), as ratio to Keras's Adam: medians over rounds in which all take turns, one "
            "thread; JAX and TensorFlow compiled by XLA, PyTorch step by step.\n\n"
            + table(header, rows)
        )
    return "".join(parts)


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tasks", nargs="*", help="names of tasks; all by default, none: cost only"
    )


def main() -> None:
    found = on_each_backend(__file__, measure, add)
    if found is None:
        return
    arguments, costs = found
    from _learning import STEPS, TASKS, Store, losses, of_keras, task_of

    store = Store("optimizers")
    for backend, cost in costs.items():
        store.piece(f"cost/{backend}", lambda cost=cost: cost, again=True)
    for name in list(TASKS) if arguments.tasks is None else arguments.tasks:
        try:
            task = task_of(name)
        except (FileNotFoundError, ModuleNotFoundError) as error:
            print(f"{name} is left out: {error}")
            continue
        for optimizer, make in makers().items():
            method = of_keras(make, task.shapes)
            store.piece(f"{name}/{optimizer}", partial(losses, task, method, GRID, SEEDS, STEPS))
    text = page(store.results, list(TASKS))
    print(text)
    if arguments.write:
        (DOCS / "optimizers.md").write_text(text)


if __name__ == "__main__":
    main()
