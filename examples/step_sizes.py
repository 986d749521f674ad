"""Which learning rate? A model of characters, trained from several initial rates.

The next character of finegrain's own manual is told from the eight before it; plain Adam and
AdaptiveStepSize round it start from the same rates. The picture shows the loss and the effective
learning rate of each.

    python examples/step_sizes.py
    python examples/step_sizes.py --rates 1e-6 1e-3 1 --steps 2000 --out step_sizes.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

import finegrain as fg

CONTEXT, BATCH, RECORDS = 8, 32, 20


def examples() -> tuple[np.ndarray, np.ndarray, int]:
    """Make contexts, (examples, 8) integers, and the characters that follow; count the symbols."""
    text = "\n".join(" ".join(words) for words in fg.tagging.manual_corpus().train)
    symbols = sorted(set(text))
    number = {symbol: index for index, symbol in enumerate(symbols)}
    numbers = np.array([number[symbol] for symbol in text], "int32")
    windows = np.lib.stride_tricks.sliding_window_view(numbers, CONTEXT + 1)
    windows = windows[np.random.default_rng(0).permutation(len(windows))]
    return windows[:, :CONTEXT], windows[:, CONTEXT], len(symbols)


def model(symbols: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((CONTEXT,), dtype="int32"),
            keras.layers.Embedding(symbols, 12),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(symbols),
        ]
    )


def curves(optimizer: Any, steps: int) -> tuple[list[float], list[float]]:
    """Train a model, and record loss and effective learning rate twenty times on the way."""
    x, y, symbols = examples()
    network = model(symbols)
    network.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses, rates = [], []
    size = steps // RECORDS * BATCH
    for record in range(RECORDS):
        rows = np.arange(record * size, (record + 1) * size) % len(x)
        history = network.fit(x[rows], y[rows], batch_size=BATCH, shuffle=False, verbose=0)
        losses.append(history.history["loss"][0])
        rates.append(float(keras.ops.convert_to_numpy(network.optimizer.learning_rate)))
    return losses, rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-6, 1e-4, 1e-2, 1.0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("step_sizes.png"))
    arguments = parser.parse_args()
    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.arange(1, RECORDS + 1) * (arguments.steps // RECORDS)
    for index, rate in enumerate(arguments.rates):
        kinds = {
            "Adam": keras.optimizers.Adam(rate),
            "learned": fg.optimizers.AdaptiveStepSize(keras.optimizers.Adam(rate)),
        }
        for kind, optimizer in kinds.items():
            losses, rates = curves(optimizer, arguments.steps)
            print(f"{kind} from {rate:g}: loss {losses[-1]:.3f}, rate {rates[-1]:.2g}", flush=True)
            style = {"color": f"C{index}", "linestyle": "-" if kind == "learned" else ":"}
            left.plot(steps, losses, label=f"{kind} from {rate:g}", **style)
            right.plot(steps, rates, **style)
    left.set(title="loss of the last steps", xlabel="step", ylim=(1.7, 4.5))
    right.set(title="effective learning rate", xlabel="step", yscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(arguments.out, dpi=90)


if __name__ == "__main__":
    main()
