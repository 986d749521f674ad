"""How many modes a GAN finds: 25 Gaussians in the plane, or MNIST stacked in three colours.

Three ways to train the same networks on the same samples: R3GAN, which is the relativistic loss
with the penalties R1 and R2 (https://arxiv.org/abs/2501.05441); the same in turns; and the
non-saturating loss with R1. A Gaussian counts as found if it has a hundredth of its share of the
samples that lie within four standard deviations of a centre. Of stacked MNIST, whose images are
three digits in red, green and blue, each of a thousand numbers counts that a classifier reads on at
least one of 25,600 samples; the example trains the classifier on digits that the GAN does not see.

    python examples/gan_modes.py gaussians --seeds 3
    python examples/gan_modes.py mnist ../shared/data/mnist --seeds 3

Each training is kept in the folder, and is not repeated.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from _gan import write_json
from keras import layers
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import finegrain as fg

GAUSSIANS = np.array([(x, y) for x in range(-2, 3) for y in range(-2, 3)], "float32")
SPREAD, LATENT = 0.05, 16
COUNTED = {"gaussians": 10_000, "mnist": 25_600}
STEPS = {"gaussians": 8_000, "mnist": 4_000}
BATCH = {"gaussians": 256, "mnist": 64}
RATE = {"gaussians": 2e-3, "mnist": 4e-4}
GAMMA = {"gaussians": 0.1, "mnist": 1.0}
console = Console()


def methods(gamma: float) -> dict[str, dict[str, Any]]:
    """Return what `GAN` takes for each way to train."""
    both = {"loss": "relativistic", "penalties": [("r1", gamma), ("r2", gamma)]}
    return {
        "R3GAN": both,
        "R3GAN, turns": {**both, "turns": True},
        "non-saturating, R1": {"loss": "non_saturating", "penalties": [("r1", gamma)]},
    }


def gaussians(random: np.random.Generator, number: int) -> np.ndarray:
    centres = GAUSSIANS[random.integers(len(GAUSSIANS), size=number)]
    return (centres + SPREAD * random.normal(size=(number, 2))).astype("float32")


def read_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the images, (n, 28, 28) in [-1, 1], and the digits."""
    with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), "uint8", offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / "train-labels-idx1-ubyte.gz") as file:
        digits = np.frombuffer(file.read(), "uint8", offset=8)
    return (images / 127.5 - 1).astype("float32"), digits.astype("int32")


def stacked(random: np.random.Generator, images: np.ndarray, number: int) -> np.ndarray:
    """Draw three images for each sample, and make them its colours."""
    return np.moveaxis(images[random.integers(len(images), size=(number, 3))], 1, -1)


def dense_networks() -> tuple[keras.Model, keras.Model]:
    def network(inputs: int, outputs: int, name: str) -> keras.Model:
        hidden = [part for _ in range(3) for part in (layers.Dense(128), layers.LeakyReLU(0.2))]
        return keras.Sequential([keras.Input((inputs,)), *hidden, layers.Dense(outputs)], name=name)

    return network(LATENT, 2, "generator"), network(2, 1, "discriminator")


def convolutions() -> tuple[keras.Model, keras.Model]:
    generator: list[Any] = [keras.Input((LATENT,)), layers.Dense(7 * 7 * 64)]
    generator += [layers.Reshape((7, 7, 64)), layers.LeakyReLU(0.2)]
    for filters in (48, 24):
        generator += [fg.layers.Conv2DTranspose(filters, 4, 2, "same"), layers.LeakyReLU(0.2)]
    generator.append(layers.Conv2D(3, 3, padding="same", activation="tanh"))
    discriminator: list[Any] = [keras.Input((28, 28, 3))]
    for filters in (24, 48, 96):
        discriminator += [layers.Conv2D(filters, 4, 2, "same"), layers.LeakyReLU(0.2)]
    discriminator += [layers.Flatten(), layers.Dense(1)]
    return (
        keras.Sequential(generator, name="generator"),
        keras.Sequential(discriminator, name="discriminator"),
    )


def count_gaussians(samples: np.ndarray) -> tuple[int, float]:
    """Return how many are found, and the share of samples near one."""
    distances = np.linalg.norm(samples[:, None] - GAUSSIANS, axis=-1)
    near = distances.argmin(1)[distances.min(1) < 4 * SPREAD]
    counts = np.bincount(near, minlength=len(GAUSSIANS))
    return int((counts >= len(samples) / len(GAUSSIANS) / 100).sum()), len(near) / len(samples)


class Reader:
    """A classifier of digits, trained on images that no GAN sees."""

    def __init__(self, folder: Path, images: np.ndarray, digits: np.ndarray) -> None:
        path = folder / "classifier.keras"
        if path.exists():
            self.model = keras.models.load_model(path)
            return
        self.model = keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(16, 5, 2, "same", activation="relu"),
                layers.Conv2D(32, 5, 2, "same", activation="relu"),
                layers.Flatten(),
                layers.Dropout(0.3),
                layers.Dense(64, activation="relu"),
                layers.Dense(10),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
        self.model.fit(images[..., None], digits, batch_size=128, epochs=3, validation_split=0.1)
        self.model.save(path)

    def count(self, samples: np.ndarray) -> tuple[int, float]:
        """Return how many numbers are read, and how even they are: their perplexity over 1000."""
        colours = np.moveaxis(samples, -1, 0)[..., None]
        digits = [self.model.predict(one, batch_size=512, verbose=0).argmax(-1) for one in colours]
        numbers = digits[0] * 100 + digits[1] * 10 + digits[2]
        shares = np.bincount(numbers, minlength=1000) / len(numbers)
        held = shares[shares > 0]
        return len(held), float(np.exp(-(held * np.log(held)).sum()) / 1000)


def train(
    task: str,
    method: str,
    seed: int,
    steps: int,
    draw: Callable[[np.random.Generator, int], np.ndarray],
) -> tuple[fg.models.GAN, float]:
    """Train a GAN on samples that are drawn anew for each block of steps."""
    keras.utils.set_random_seed(seed)
    random = np.random.default_rng(seed)
    pair = dense_networks() if task == "gaussians" else convolutions()
    gan = fg.models.GAN(*pair, seed=seed, ema_momentum=0.999, **methods(GAMMA[task])[method])
    rate = keras.optimizers.schedules.CosineDecay(RATE[task], steps, alpha=0.02)
    block = min(250, steps)
    gan.compile(keras.optimizers.Adam(rate, beta_1=0.0, beta_2=0.99))
    start = time.process_time()
    for _ in range(steps // block):
        gan.fit(draw(random, block * BATCH[task]), batch_size=BATCH[task], shuffle=False)
    return gan, time.process_time() - start


def picture(task: str, samples: dict[str, np.ndarray], path: Path) -> None:
    """Draw the samples of each method, with the centres, or as images."""
    figure = Figure(figsize=(4 * len(samples), 4), layout="constrained")
    for ax, (method, made) in zip(
        figure.subplots(1, len(samples), squeeze=False)[0], samples.items(), strict=True
    ):
        if task == "gaussians":
            ax.scatter(*GAUSSIANS.T, s=60, facecolors="none", edgecolors="tab:red")
            ax.scatter(*made[:2000].T, s=2, alpha=0.4)
            ax.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal")
        else:
            rows = made[:64].reshape(8, 8, 28, 28, 3).transpose(0, 2, 1, 3, 4)
            ax.imshow(rows.reshape(224, 224, 3) / 2 + 0.5)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_title(method)
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=list(STEPS))
    parser.add_argument("data", type=Path, nargs="?", help="folder of MNIST's files")
    parser.add_argument("--methods", nargs="+", choices=list(methods(1)), default=list(methods(1)))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--folder", type=Path, default=Path("build/gan_modes"))
    arguments = parser.parse_args()
    task, steps = arguments.task, arguments.steps or STEPS[arguments.task]
    folder = arguments.folder / f"{task}-{steps}"
    folder.mkdir(parents=True, exist_ok=True)
    if task == "gaussians":
        draw, count, modes = gaussians, count_gaussians, 25
    else:
        if arguments.data is None:
            parser.error("mnist needs the folder of its files")
        images, digits = read_mnist(arguments.data)
        half = len(images) // 2
        count, modes = Reader(folder, images[half:], digits[half:]).count, 1000

        def draw(random: np.random.Generator, number: int) -> np.ndarray:
            return stacked(random, images[:half], number)

    file = folder / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for seed in range(arguments.seeds):
        for method in arguments.methods:
            key = f"{method} | {seed}"
            if key in results:
                continue
            gan, seconds = train(task, method, seed, steps, draw)
            made = gan.generate(COUNTED[task], seed=0)
            found, share = count(made)
            results[key] = {"modes": found, "share": share, "seconds": seconds}
            if seed == 0:
                np.save(folder / f"{method}.npy", made[:2000])
            write_json(file, results)
            console.print(f"{key}: {found} of {modes} modes, {seconds:.0f} s of CPU", markup=False)
    table = Table(title=f"{task}, {steps} steps: modes found, of {modes}")
    last = "near a mode" if task == "gaussians" else "evenness"
    for name in ("", "each seed", last, "CPU seconds"):
        table.add_column(name, justify="right")
    for method in arguments.methods:
        own = [run for key, run in results.items() if key.startswith(f"{method} | ")]
        table.add_row(
            method,
            ", ".join(str(run["modes"]) for run in own),
            ", ".join(f"{run['share']:.2f}" for run in own),
            ", ".join(f"{run['seconds']:.0f}" for run in own),
        )
    console.print(table)
    kept = {method: folder / f"{method}.npy" for method in arguments.methods}
    samples = {method: np.load(path) for method, path in kept.items() if path.exists()}
    if samples:
        picture(task, samples, folder / "samples.png")
        console.print(f"Pictures: {folder / 'samples.png'}")


if __name__ == "__main__":
    main()
