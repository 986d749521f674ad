"""A DCGAN on MNIST: one loss and one optimizer beside training that takes turns with two.

Both methods begin with the same weights, see as many images in as many steps and learn at the same
rates. `single` is `finegrain.models.GAN` and `fit`. `alternating` is what it stands in for: in each
step the discriminator learns first, then the generator, each with an Adam of its own, from noise of
its own.

    KERAS_BACKEND=jax python examples/gan_mnist.py                # both methods, seeds 0, 1, 2
    python examples/gan_mnist.py --methods single --seeds 0 --data path/to/mnist

The data are the two files of MNIST's training images, train-images-idx3-ubyte.gz and
train-labels-idx1-ubyte.gz, from https://github.com/cvdfoundation/mnist.

For each run the folder gets a grid of samples after each epoch, the curves of the losses, the model
and its scores, and beside them the results of all and a picture. A run whose scores are there,
from the same settings, is not run again.

The scores compare 10,000 samples with 10,000 images that no training saw: the Fréchet distance in
the features of a small classifier, which the script trains first, and how many of the ten digits
the classifier finds among the samples. The distance between other real images and the held-out
ones is the floor.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from _gan import Curves, Grids, frechet_distance, grid, save_curves, write_json
from keras import layers, ops
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import finegrain as fg

DATA = Path(__file__).parents[1] / "data" / "mnist"
FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
METHODS = ("single", "alternating")
LOSSES = ["discriminator_loss", "generator_loss"]  # of the discriminator's turn, the generator's
BATCH, LATENT, EVERY = 64, 32, 25
RATE, GENERATOR_MULTIPLIER = 3e-4, 2.0
HELD_OUT = 10_000
PRESENT = 0.01  # a digit appears if one sample in a hundred is one
console = Console()


def read_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the images, (n, 28, 28, 1) in [−1, 1], and their digits."""
    images, digits = (
        np.frombuffer(gzip.decompress((folder / name).read_bytes()), "uint8", offset=offset)
        for name, offset in zip(FILES, (16, 8), strict=True)
    )
    return (images.reshape(-1, 28, 28, 1) / 127.5 - 1).astype("float32"), digits.astype("int32")


def networks() -> tuple[keras.Model, keras.Model]:
    """Make a generator from noise to images, and a discriminator from images to scores."""
    generator = keras.Sequential(
        [
            keras.Input((LATENT,)),
            layers.Dense(7 * 7 * 32, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Reshape((7, 7, 32)),
            fg.layers.Conv2DTranspose(16, 4, 2, "same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            fg.layers.Conv2DTranspose(1, 4, 2, "same", activation="tanh"),
        ],
        name="generator",
    )
    discriminator = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 4, 2, "same"),
            layers.LeakyReLU(0.2),
            layers.Conv2D(64, 4, 2, "same"),
            layers.LeakyReLU(0.2),
            layers.Flatten(),
            layers.Dense(1),
        ],
        name="discriminator",
    )
    return generator, discriminator


def adam(rate: float) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(rate, beta_1=0.5)


class Turn(keras.Model):
    """One player's turn: it learns, with an optimizer of its own, and the other stays as it is.

    Args:
        gan: Has both networks.
        learner: The one that learns.
        seed: Of the noise.
    """

    def __init__(self, gan: fg.models.GAN, learner: keras.Model, seed: int) -> None:
        super().__init__()
        self.generator, self.discriminator, self.learner = gan.generator, gan.discriminator, learner
        self.noise = keras.random.SeedGenerator(seed)
        self.built = True

    @property
    def trainable_variables(self) -> list[Any]:
        return self.learner.trainable_variables

    @property
    def non_trainable_variables(self) -> list[Any]:
        learning = {id(variable) for variable in self.trainable_variables}
        return [variable for variable in self.variables if id(variable) not in learning]

    @property
    def trainable_weights(self) -> list[Any]:
        return self.learner.trainable_weights

    def call(self, real: Any, training: bool | None = None) -> Any:
        """Score the real images in the discriminator's turn; pass them on in the generator's."""
        if self.learner is self.generator:
            return real
        return self.discriminator(real, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Compute the non-saturating loss of the player whose turn it is."""
        noise = keras.random.normal((ops.shape(x)[0], LATENT), seed=self.noise)
        fake = self.generator(noise, training=training)
        if self.learner is self.generator:
            return ops.mean(ops.softplus(-self.discriminator(fake, training=training)))
        score = self.discriminator(ops.stop_gradient(fake), training=training)
        return ops.mean(ops.softplus(-y_pred)) + ops.mean(ops.softplus(score))


def single(seed: int) -> fg.models.GAN:
    """Make a GAN with one loss and one optimizer."""
    keras.utils.set_random_seed(seed)
    generator, discriminator = networks()
    gan = fg.models.GAN(generator, discriminator, loss="non_saturating", seed=seed)
    faster = fg.Rule(generator, learning_rate_multiplier=GENERATOR_MULTIPLIER)
    gan.compile(fg.PerWeight(adam(RATE), [faster]))
    return gan


def alternating(seed: int) -> tuple[fg.models.GAN, Turn, Turn]:
    """Make a GAN and its two turns, with two losses and two optimizers.

    The GAN is not compiled: it only draws the samples.
    """
    keras.utils.set_random_seed(seed)
    gan = fg.models.GAN(*networks(), seed=seed)
    of_discriminator = Turn(gan, gan.discriminator, seed)
    of_generator = Turn(gan, gan.generator, seed + 1)
    of_discriminator.compile(adam(RATE))
    of_generator.compile(adam(RATE * GENERATOR_MULTIPLIER))
    return gan, of_discriminator, of_generator


def take_turns(
    turns: tuple[Turn, Turn],
    images: np.ndarray,
    epochs: int,
    seed: int,
    callbacks: list[keras.callbacks.Callback],
) -> None:
    """Train two players in turns, as `fit` trains one model."""
    random = np.random.default_rng(seed)
    steps = len(images) // BATCH
    for epoch in range(epochs):
        bar = keras.utils.Progbar(steps, stateful_metrics=LOSSES)
        sums = np.zeros(2)
        order = random.permutation(len(images))
        for callback in callbacks:
            callback.on_epoch_begin(epoch)
        for step in range(steps):
            batch = images[order[step * BATCH : (step + 1) * BATCH]]
            sums += [float(turn.train_on_batch(batch)) for turn in turns]
            means = dict(zip(LOSSES, sums / (step + 1), strict=True))
            bar.update(step + 1, means.items())
            for callback in callbacks:
                callback.on_train_batch_end(step, means)
        for callback in callbacks:
            callback.on_epoch_end(epoch)


def trained(
    method: str, seed: int, images: np.ndarray, epochs: int, folder: Path
) -> tuple[fg.models.GAN, float]:
    """Train a GAN, and return it with the seconds that its epochs took."""
    folder.mkdir(parents=True, exist_ok=True)
    images = images[: len(images) // BATCH * BATCH]
    curves = Curves(LOSSES, EVERY)
    if method == "single":
        gan, turns = single(seed), None
    else:
        gan, *turns = alternating(seed)
    callbacks = [curves, Grids(folder, lambda: gan.generate(64, seed=0))]
    begin = time.perf_counter()
    if turns is None:
        gan.fit(images, batch_size=BATCH, epochs=epochs, callbacks=callbacks)
    else:
        take_turns(turns, images, epochs, seed, callbacks)
    seconds = time.perf_counter() - begin
    save_curves(folder / "curves.png", curves.values, EVERY)
    return gan, seconds


class Judge:
    """A classifier of digits, and what the held-out images look like to it."""

    def __init__(self, folder: Path, images: np.ndarray, digits: np.ndarray, epochs: int) -> None:
        path = folder / "classifier.keras"
        held_out, of_held_out = images[-HELD_OUT:], digits[-HELD_OUT:]
        if path.exists():
            model = keras.models.load_model(path)
        else:
            model = self.classifier()
            model.fit(images[:-HELD_OUT], digits[:-HELD_OUT], batch_size=128, epochs=epochs)
            model.save(path)
        hidden = model.get_layer("features").output
        self.look = keras.Model(model.inputs, [hidden, model.outputs[0]])
        self.reference, scores = self.look.predict(held_out, batch_size=256, verbose=0)
        self.accuracy = float((scores.argmax(1) == of_held_out).mean())
        others, _ = self.look.predict(images[:HELD_OUT], batch_size=256, verbose=0)
        self.floor = frechet_distance(others, self.reference)

    @staticmethod
    def classifier() -> keras.Model:
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(16, 3, 2, "same", activation="relu"),
                layers.Conv2D(32, 3, 2, "same", activation="relu"),
                layers.Flatten(),
                layers.Dense(64, activation="relu", name="features"),
                layers.Dropout(0.3),
                layers.Dense(10),
            ]
        )
        model.compile(
            keras.optimizers.Adam(2e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        return model

    def score(self, samples: np.ndarray) -> dict[str, Any]:
        """Compute the samples' distance to the held-out images, and the share of each digit."""
        features, scores = self.look.predict(samples, batch_size=256, verbose=0)
        shares = np.bincount(scores.argmax(1), minlength=10) / len(samples)
        return {
            "frechet_distance": frechet_distance(features, self.reference),
            "digits": float((shares >= PRESENT).mean()),
            "shares": shares.round(4).tolist(),
        }


def read(path: Path) -> dict[str, Any] | None:
    """Read what an earlier run left there, if anything."""
    return json.loads(path.read_text()) if path.exists() else None


def samples_of(gan: fg.models.GAN, number: int) -> np.ndarray:
    return np.concatenate([gan.generate(500, seed=1 + part) for part in range(number // 500)])


def seconds_per_step(images: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Measure the seconds of steps of both methods.

    They take turns in this process, each with weights of its own.
    """
    gan, (_, *turns) = single(0), alternating(0)
    batch = images[:BATCH]
    contenders = {"single": [gan], "alternating": turns}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for index in range(rounds + 3):
        for name, models in contenders.items():
            begin = time.perf_counter()
            for model in models:
                model.train_on_batch(batch)
            if index >= 3:  # the first compile
                times[name].append(time.perf_counter() - begin)
    return times


def show(results: dict[str, Any]) -> None:
    """Print the table of means and standard deviations over the seeds."""
    seeds = sorted({run["seed"] for run in results["runs"]})
    table = Table(title=f"MNIST, {results['steps']} steps of {BATCH}, seeds {seeds}")
    for name in ("", "Fréchet distance", "each seed", "digits that appear", "rarest digit"):
        table.add_column(name, justify="right")
    table.add_row("real images", f"{results['floor']:.2f}", "", "", "")
    for method in METHODS:
        runs = [run for run in results["runs"] if run["method"] == method]
        if not runs:
            continue
        distances = [run["frechet_distance"] for run in runs]
        spread = f" ± {statistics.stdev(distances):.2f}" if len(distances) > 1 else ""
        table.add_row(
            method,
            f"{statistics.mean(distances):.2f}{spread}",
            ", ".join(f"{distance:.2f}" for distance in distances),
            f"{statistics.mean(run['digits'] for run in runs):.0%}",
            f"{min(min(run['shares']) for run in runs):.1%}",
        )
    console.print(table)
    console.print(f"The classifier is right in {results['accuracy']:.2%} of the held-out images.")
    if "time_ratio" in results:
        medians = {name: f"{1e3 * value:.0f} ms" for name, value in results["step"].items()}
        console.print(f"A step: {medians}; single by alternating {results['time_ratio']:.2f}")


def picture(path: Path, pictures: dict[str, np.ndarray]) -> None:
    figure = Figure(figsize=(2.6 * len(pictures), 2.95), layout="constrained")
    for axes, (name, images) in zip(
        figure.subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True
    ):
        axes.imshow(grid(images), cmap="gray_r")
        axes.set_title(name)
        axes.set_axis_off()
    figure.savefig(path, dpi=95, pil_kwargs={"optimize": True})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder of MNIST's files")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, default=20_000, help="that an epoch goes through")
    parser.add_argument("--samples", type=int, default=10_000, help="that are scored")
    parser.add_argument("--rounds", type=int, default=20, help="of the timing; 0 for none")
    parser.add_argument("--folder", type=Path, default=Path("build/gan_mnist"))
    arguments = parser.parse_args()
    for name in FILES:
        if not (arguments.data / name).exists():
            raise SystemExit(
                f"There is no {arguments.data / name}: MNIST is needed, from "
                "https://github.com/cvdfoundation/mnist; name the folder of its files with --data"
            )
    images, digits = read_mnist(arguments.data)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    judge = Judge(arguments.folder, images, digits, epochs=3)
    real, train = images[-HELD_OUT:][:64], images[:-HELD_OUT][: arguments.images]
    settings = {
        "backend": keras.backend.backend(),
        "steps": len(train) // BATCH * arguments.epochs,
        "images": len(train),
        "samples": arguments.samples,
    }
    results: dict[str, Any] = settings | {
        "accuracy": judge.accuracy,
        "floor": judge.floor,
        "runs": [],
    }
    for seed in arguments.seeds:
        for method in arguments.methods:
            folder = arguments.folder / f"{method}-{seed}"
            result = {"method": method, "seed": seed} | settings
            kept = read(folder / "result.json")
            if kept is None or not result.items() <= kept.items():
                console.print(f"{method}, seed {seed}")
                gan, seconds = trained(method, seed, train, arguments.epochs, folder)
                kept = result | {"seconds": round(seconds, 1)}
                kept |= judge.score(samples_of(gan, arguments.samples))
                np.save(folder / "samples.npy", gan.generate(64, seed=0))
                gan.save(folder / "gan.keras")
                write_json(folder / "result.json", kept)
            results["runs"].append(kept)
    if arguments.rounds:
        times = seconds_per_step(train, arguments.rounds)
        results["step"] = {name: statistics.median(own) for name, own in times.items()}
        results["time_ratio"] = statistics.median(
            one / other for one, other in zip(times["single"], times["alternating"], strict=True)
        )
    show(results)
    write_json(arguments.folder / "results.json", results)
    drawn = {
        method: np.load(arguments.folder / f"{method}-{arguments.seeds[0]}" / "samples.npy")
        for method in arguments.methods
    }
    picture(arguments.folder / "samples.png", drawn | {"real": real})
    console.print(f"Kept in {arguments.folder}")


if __name__ == "__main__":
    main()
