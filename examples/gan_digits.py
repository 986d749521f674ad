"""A GAN on scikit-learn's digits, 8 × 8 pixels: one loss, one optimizer, one fit.

No files are needed, and any backend will do. The folder gets a grid of samples, the curves of the
losses and the scores: the Fréchet distance of the samples' pixels to those of held-out images,
beside that of real images and that of the samples before training, and how many of the ten digits a
classifier by nearest neighbours finds among the samples.

    python examples/gan_digits.py
    python examples/gan_digits.py --epochs 50 --seed 1 --folder build/digits
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
from _gan import Curves, frechet_distance, save_curves, save_grid, write_json
from keras import layers
from rich.console import Console
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

import finegrain as fg

LATENT, BATCH, SAMPLES = 16, 64, 1000
PRESENT = 0.01  # a digit appears if one sample in a hundred is one
console = Console()


def networks() -> tuple[keras.Model, keras.Model]:
    """Make a generator from noise to images, and a discriminator from images to scores."""
    generator = keras.Sequential(
        [
            keras.Input((LATENT,)),
            layers.Dense(128),
            layers.BatchNormalization(),
            layers.LeakyReLU(0.2),
            layers.Dense(128),
            layers.BatchNormalization(),
            layers.LeakyReLU(0.2),
            layers.Dense(64, activation="sigmoid"),
            layers.Reshape((8, 8)),
        ],
        name="generator",
    )
    discriminator = keras.Sequential(
        [
            keras.Input((8, 8)),
            layers.Flatten(),
            layers.Dense(128),
            layers.LeakyReLU(0.2),
            layers.Dense(128),
            layers.LeakyReLU(0.2),
            layers.Dense(1),
        ],
        name="discriminator",
    )
    return generator, discriminator


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("build/gan_digits"))
    arguments = parser.parse_args()
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images = (images[order].reshape(-1, 8, 8) / 16).astype("float32")
    digits = digits[order]
    part = len(images) // 2 // BATCH * BATCH  # whole batches
    train, held_out = images[:part], images[part:]
    judge = KNeighborsClassifier(3).fit(flat(train), digits[:part])

    keras.utils.set_random_seed(arguments.seed)
    generator, discriminator = networks()
    gan = fg.models.GAN(generator, discriminator, ema_momentum=0.99, seed=arguments.seed)
    slower = fg.Rule(generator, learning_rate_multiplier=0.5)
    gan.compile(fg.PerWeight(keras.optimizers.Adam(1e-3, beta_1=0.5), [slower]))
    before = frechet_distance(flat(gan.generate(SAMPLES, seed=1)), flat(held_out))
    curves = Curves(["discriminator_loss", "generator_loss"], len(train) // BATCH)
    gan.fit(train, batch_size=BATCH, epochs=arguments.epochs, callbacks=[curves], verbose=2)

    samples = flat(gan.generate(SAMPLES, seed=1))
    shares = np.bincount(judge.predict(samples), minlength=10) / SAMPLES
    results = {
        "frechet_distance": frechet_distance(samples, flat(held_out)),
        "real_images": frechet_distance(flat(train), flat(held_out)),
        "before_training": before,
        "accuracy": float(judge.score(flat(held_out), digits[part:])),
        "digits": int((shares >= PRESENT).sum()),
        "shares": shares.tolist(),
    }
    arguments.folder.mkdir(parents=True, exist_ok=True)
    save_grid(arguments.folder / "samples.png", gan.generate(64, seed=0), scale=4)
    save_curves(arguments.folder / "curves.png", curves.values, curves.every)
    write_json(arguments.folder / "results.json", results)
    console.print(
        f"Fréchet distance {results['frechet_distance']:.2f}; before training {before:.2f}, "
        f"of real images {results['real_images']:.2f}.\n{results['digits']} of 10 digits appear, "
        f"the rarest in {shares.min():.1%} of the samples, by a classifier that is right in "
        f"{results['accuracy']:.1%} of the held-out images."
    )
    console.print(f"Kept in {arguments.folder}: samples.png, curves.png, results.json")


if __name__ == "__main__":
    main()
