"""What width does to learning: how much a few steps change the outputs, with and without `mup`.

Networks of two hidden layers, 32 to 1024 wide, take three steps at one learning rate. With one
rate for all weights a wide one changes its outputs far more than a narrow one; with the rates of
`finegrain.recipes.mup` (Yang et al. 2022, https://arxiv.org/abs/2203.03466) they change alike, so
that the best rate is the same.

    python examples/mup_widths.py
    python examples/mup_widths.py --optimizer sgd --widths 64 256 --seeds 2
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import finegrain as fg

RATES = {"adam": 0.01, "sgd": 0.05}


def network(width: int) -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(width, "relu", kernel_initializer="he_normal"),
            layers.Dense(width, "relu", kernel_initializer="he_normal"),
            layers.Dense(1, kernel_initializer="zeros"),
        ]
    )


def change(width: int, base_width: int | None, optimizer: str, seeds: Sequence[int]) -> np.ndarray:
    """Measure, for each seed, by how much three steps change the outputs, in root mean square."""
    random = np.random.default_rng(0)
    x = random.normal(size=(64, 8)).astype("float32")
    y = np.sin(x.sum(1, keepdims=True))
    found = []
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        model = network(width)
        rules = []
        if base_width is not None:
            rules = fg.recipes.mup(model, network(base_width), optimizer=optimizer)
        inner = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}[optimizer]
        model.compile(fg.PerWeight(inner(RATES[optimizer]), rules), "mse", run_eagerly=True)
        before = model.predict(x, verbose=0)
        for _ in range(3):
            model.train_on_batch(x, y)
        found.append(np.sqrt(np.mean((model.predict(x, verbose=0) - before) ** 2)))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--optimizer", choices=list(RATES), default="adam")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256, 512, 1024])
    parser.add_argument("--seeds", type=int, default=6, help="how many")
    arguments = parser.parse_args()
    table = Table(title=f"Change of the outputs in three steps, {arguments.optimizer}")
    for heading in ("width", "one rate", "mup"):
        table.add_column(heading, justify="right")
    for width in arguments.widths:
        cells = []
        for base in (None, arguments.widths[0]):
            found = change(width, base, arguments.optimizer, range(arguments.seeds))
            cells.append(f"{found.mean():.2f} ± {found.std():.2f}")
        table.add_row(str(width), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
