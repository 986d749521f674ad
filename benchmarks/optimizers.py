"""AdaX, Adam, AdamW and Adafactor on the same tasks, each tuned alike; and what a step costs.

Each optimizer trains each task with three seeds at each of 13 learning rates between 1e-4 and 0.1,
2,000 steps at a constant rate; the table shows the loss at its best rate. The steps of AdaX and
Keras's Adam are timed on each backend. Needs JAX for the tasks and `pip install '.[bench]'`.

    python benchmarks/optimizers.py --show      # what is kept
    python benchmarks/optimizers.py --tasks     # no tasks: the cost alone
    python benchmarks/optimizers.py --resume    # go on where the last call was stopped
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from _common import (
    Run,
    add_backends,
    alternating,
    on_each_backend,
    parsed,
    ratios,
    table,
    versions,
    write_page,
)
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
        "PowerDecay(0.8)": lambda: own.AdaptiveMoments(1e-3, averaging=own.PowerDecay(0.8)),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure what a step alone costs, as median ratios to Keras's Adam."""
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
        "AdaptiveStepSize(Adam), sign": own.AdaptiveStepSize(adam(1e-3), own.SignGains()),
    }
    steps = {name: optimizer_step(optimizer, 20) for name, optimizer in contenders.items()}
    times = alternating(steps, arguments.rounds)
    return {
        "versions": versions("keras", backend),
        "milliseconds": 1000 * statistics.median(times["Keras Adam"]) / 20,
        "ratios": ratios(times, "Keras Adam"),
    }


def page(run: Run) -> str:
    """Format the tables as a page of the docs."""
    from _learning import TASKS, means

    results, names = run.results, list(makers())
    parts = [
        "# AdaX beside its relatives\n\n"
        "Final losses at the best of 13 learning rates between 1e-4 and 0.1, chosen for each "
        f"optimizer, task and part of the data; means over the seeds {SEEDS}; {results['steps']:,} "
        "steps at a constant rate. inf: at each rate a run diverged.\n\n"
        + run.source("benchmarks/optimizers.py")
    ]
    for part in ("train", "validation"):
        rows = []
        for task in TASKS:
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
    add_backends(parser)
    parser.add_argument(
        "--tasks", nargs="*", help="names of tasks; all by default, none: cost only"
    )
    parser.add_argument("--steps", type=int, default=2000, help="of each training; at least 40")
    parser.add_argument("--resume", action="store_true", help="go on where the last call stopped")


def main() -> None:
    arguments = parsed(add)
    if arguments.show:
        run = Run.read("optimizers")
    else:
        costs = on_each_backend(__file__, measure, arguments)
        if costs is None:
            return
        run = measured(arguments, costs)
    text = page(run)
    print(text)
    if arguments.write:
        run.keep("optimizers")
        write_page("optimizers", text)


def measured(arguments: argparse.Namespace, costs: dict[str, Any]) -> Run:
    """Measure the losses of all tasks, and add the costs."""
    from _data import MissingDataError
    from _learning import QUICK_STEPS, QUICK_TASKS, TASKS, Store, losses, of_keras

    steps = QUICK_STEPS if arguments.quick else arguments.steps
    chosen = list(TASKS) if arguments.tasks is None else arguments.tasks
    store = Store(f"optimizers_{steps}", arguments.resume)
    for name in QUICK_TASKS if arguments.quick else chosen:
        try:
            task = TASKS[name](arguments.data)
        except (MissingDataError, ModuleNotFoundError) as error:
            print(f"{name} is left out: {error}.")
            continue
        for optimizer, make in makers().items():
            method = of_keras(make, task.shapes)
            store.piece(f"{name}/{optimizer}", partial(losses, task, method, GRID, SEEDS, steps))
    found = {f"cost/{backend}": cost for backend, cost in costs.items()}
    return Run.here(store.results | found | {"steps": steps}, arguments.rounds)


if __name__ == "__main__":
    main()
