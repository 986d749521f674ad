"""What the weight of the generator's loss does, and what a Rule on the generator does.

One small GAN is trained from the same start, on the same batches and noise, with several weights λ
of the generator's loss and with Rules that multiply its learning rate. The picture shows how far
the generator's weights have come, ‖θ − θ₀‖. Under SGD λ and the multiplier are one thing. RMSprop
and Adam divide each gradient by its size, and λ with it: only the Rule is left.

They do so above their epsilon. Keras's RMSprop adds it under the root, so that at the default of
1e-7 gradients below 3e-4 are not divided by their size, and a small λ slows the generator after all
(`--rmsprop-epsilon 1e-7` shows it). What it does then depends on the size of the gradients.

    python examples/gan_learning_rates.py
    python examples/gan_learning_rates.py --steps 100 --out build/rates.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
from keras import layers
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import finegrain as fg

BATCH, EVERY = 32, 10
OPTIMIZERS = {
    "SGD": lambda epsilon: keras.optimizers.SGD(0.01),
    "RMSprop": lambda epsilon: keras.optimizers.RMSprop(1e-4, epsilon=epsilon),
    "Adam": lambda epsilon: keras.optimizers.Adam(1e-4, beta_1=0.5),
}
# λ and the multiplier of the Rule.
RUNS = {
    "λ = 0.1": (0.1, 1.0),
    "λ = 1": (1.0, 1.0),
    "λ = 10": (10.0, 1.0),
    "Rule × 0.1": (1.0, 0.1),
    "Rule × 10": (1.0, 10.0),
}
STYLES = {  # lines that lie on one another are to be seen
    "λ = 0.1": {"color": "C0", "linewidth": 6, "alpha": 0.4},
    "λ = 1": {"color": "0.3", "linewidth": 2.5},
    "λ = 10": {"color": "C1", "linewidth": 1.5, "linestyle": "--"},
    "Rule × 0.1": {"color": "C0", "linestyle": "none", "marker": "o", "markersize": 4},
    "Rule × 10": {"color": "C1", "linestyle": "none", "marker": "o", "markersize": 4},
}
console = Console()


def ring(points: int) -> np.ndarray:
    """Draw points, (points, 2), from eight normal distributions on a circle."""
    random = np.random.default_rng(0)
    angle = random.integers(8, size=points) * np.pi / 4
    centres = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (centres + 0.05 * random.normal(size=(points, 2))).astype("float32")


class Way(keras.callbacks.Callback):
    """The weights of the generator after each epoch, as one vector, the first ones included."""

    def __init__(self, generator: keras.Model) -> None:
        super().__init__()
        self.generator = generator
        self.weights = [self.now()]

    def now(self) -> np.ndarray:
        return np.concatenate([weight.ravel() for weight in self.generator.get_weights()])

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.weights.append(self.now())


def way(optimizer: keras.optimizers.Optimizer, run: str, steps: int) -> np.ndarray:
    """Record the generator's weights every `EVERY` steps, (steps / EVERY + 1, weights)."""
    generator_weight, multiplier = RUNS[run]
    keras.utils.set_random_seed(0)
    generator = keras.Sequential(
        [keras.Input((4,)), layers.Dense(32, "tanh"), layers.Dense(32, "tanh"), layers.Dense(2)]
    )
    discriminator = keras.Sequential(
        [keras.Input((2,)), layers.Dense(32, "tanh"), layers.Dense(32, "tanh"), layers.Dense(1)]
    )
    gan = fg.models.GAN(
        generator,
        discriminator,
        loss="non_saturating",
        generator_weight=generator_weight,
        seed=0,
    )
    rule = fg.Rule(generator, learning_rate_multiplier=multiplier)
    gan.compile(fg.PerWeight(optimizer, [rule]))
    callback = Way(generator)
    gan.fit(
        ring(BATCH * EVERY),
        batch_size=BATCH,
        epochs=steps // EVERY,
        shuffle=False,
        callbacks=[callback],
        verbose=0,
    )
    return np.array(callback.weights)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rmsprop-epsilon", type=float, default=1e-14)
    parser.add_argument("--out", type=Path, default=Path("gan-generator-weight.png"))
    arguments = parser.parse_args()
    figure = Figure(figsize=(11.0, 3.6), layout="constrained")
    table = Table(title=f"How far the generator has come in {arguments.steps} steps")
    for name in ("", *RUNS):
        table.add_column(name, justify="right")
    steps = np.arange(1, arguments.steps // EVERY + 1) * EVERY
    for axes, (name, make) in zip(figure.subplots(1, 3), OPTIMIZERS.items(), strict=True):
        distances = {}
        for run in RUNS:
            weights = way(make(arguments.rmsprop_epsilon), run, arguments.steps)
            distances[run] = np.linalg.norm(weights - weights[0], axis=1)[1:]
            axes.plot(steps, distances[run], label=run, **STYLES[run])
        table.add_row(name, *(f"{distance[-1]:.4f}" for distance in distances.values()))
        axes.set(title=name, xlabel="step", yscale="log")
        axes.grid(alpha=0.3)
        handles = axes.get_legend_handles_labels()
    figure.axes[0].set_ylabel("distance from the start")
    figure.legend(*handles, loc="outside lower center", ncols=len(RUNS))
    console.print(table)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=90)


if __name__ == "__main__":
    main()
