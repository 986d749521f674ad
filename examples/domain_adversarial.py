"""Digits under a shift: features that a classifier of domains cannot tell apart.

The source domain is scikit-learn's digits, 8 × 8 pixels, and the target other digits of the same
kind, slanted. A network learns the source's digits. Beside them, a second head learns to tell the
domains apart, and behind `finegrain.routing.reverse_gradient` the features learn that it cannot.
The labels of the target serve the test alone, and the upper bound.

    python examples/domain_adversarial.py
    python examples/domain_adversarial.py --epochs 20 --seeds 0 --strengths 0.1 1

The factor of the reversed gradient grows from 0 to 1, times a strength, as in Yaroslav Ganin et
al., Domain-adversarial training of neural networks, 2016, https://arxiv.org/abs/1505.07818. The
default strength was chosen with another split of the digits; at 1 the features lose the digits too.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from _gan import write_json
from keras import layers
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import finegrain as fg

BATCH, TEST = 64, 400
console = Console()


class Domain(NamedTuple):
    """Images, (n, 8, 8, 1) in [0, 1], and their digits."""

    images: np.ndarray
    digits: np.ndarray


def domains() -> tuple[Domain, Domain, Domain, Domain]:
    """Return source and target to train with, then to test with; no digit is in two of them."""
    pixels, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(pixels))
    images = (pixels[order].reshape(-1, 8, 8, 1) / 16).astype("float32")
    digits = digits[order].astype("int32")
    shifted = slanted(images)
    half = (len(images) - 2 * TEST) // 2
    source, target, test, test_of_target = np.split(
        np.arange(2 * (half + TEST)), [half, 2 * half, 2 * half + TEST]
    )
    return (
        Domain(images[source], digits[source]),
        Domain(shifted[target], digits[target]),
        Domain(images[test], digits[test]),
        Domain(shifted[test_of_target], digits[test_of_target]),
    )


def slanted(images: np.ndarray) -> np.ndarray:
    """Move each row half a pixel for each pixel that it is above the middle, as in italics."""
    columns = np.arange(8.0)
    rows = [
        [
            np.interp(columns - 0.5 * (3.5 - row), columns, line, left=0.0, right=0.0)
            for row, line in enumerate(image)
        ]
        for image in images[:, :, :, 0]
    ]
    return np.array(rows, "float32")[:, :, :, None]


class Grow(keras.callbacks.Callback):
    """A callback that raises the factor from 0 to `strength`, quickly at first."""

    def __init__(self, layer: fg.layers.ReverseGradient, strength: float, epochs: int) -> None:
        super().__init__()
        self.layer, self.strength, self.epochs = layer, strength, epochs

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        progress = epoch / self.epochs
        self.layer.factor.assign(self.strength * (2 / (1 + np.exp(-10 * progress)) - 1))


def network() -> keras.Model:
    """Make a network of two heads on the same features: which digit, and which domain."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = layers.Flatten()(x)
    features = layers.Dense(64, activation="relu", name="features")(x)
    digit = layers.Dense(10, name="digit")(features)
    reversed_features = fg.layers.ReverseGradient(0.0, name="reversal")(features)
    x = layers.Dense(64, activation="relu")(reversed_features)
    domain = layers.Dense(1, name="domain")(x)
    return keras.Model(inputs, {"digit": digit, "domain": domain})


def accuracy(model: keras.Model, domain: Domain) -> float:
    scores = model.predict(domain.images, batch_size=256, verbose=0)["digit"]
    return float((scores.argmax(1) == domain.digits).mean())


def run(seed: int, epochs: int, strength: float = 0.0, *, on_target: bool = False) -> Any:
    """Train a network and measure its accuracy on the test images of both domains.

    At strength 0 the features know nothing of the domains. With `on_target` the network learns the
    target's digits.
    """
    keras.utils.set_random_seed(seed)
    source, target, test, test_of_target = domains()
    labelled = target if on_target else source
    images = np.concatenate([labelled.images, target.images])
    from_source = np.repeat([1.0, 0.0], [len(labelled.images), len(target.images)])
    # What the target's digits are is unknown: they stand as 0, and weigh nothing. Twice the others
    # make a batch's mean that of its labelled half.
    digits = np.concatenate([labelled.digits, np.zeros_like(target.digits)])
    model = network()
    model.compile(
        keras.optimizers.Adam(1e-3),
        loss={
            "digit": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "domain": keras.losses.BinaryCrossentropy(from_logits=True),
        },
    )
    model.fit(
        images,
        {"digit": digits, "domain": from_source[:, None]},
        sample_weight={"digit": 2 * from_source, "domain": np.ones_like(from_source)},
        batch_size=BATCH,
        epochs=epochs,
        callbacks=[Grow(model.get_layer("reversal"), strength, epochs)],
        verbose=0,
    )
    return {"source": accuracy(model, test), "target": accuracy(model, test_of_target)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.1])
    parser.add_argument("--folder", type=Path, default=Path("build/domain_adversarial"))
    arguments = parser.parse_args()
    methods: dict[str, dict[str, Any]] = {"source only": {}}
    for strength in arguments.strengths:
        methods[f"reverse_gradient, {strength:g}"] = {"strength": strength}
    methods["trained on target"] = {"on_target": True}
    results = {
        name: [run(seed, arguments.epochs, **how) for seed in arguments.seeds]
        for name, how in methods.items()
    }
    table = Table(title=f"Accuracy on test images, seeds {arguments.seeds}")
    for name in ("", "source", "target", "target, each seed"):
        table.add_column(name, justify="right")
    for method, runs in results.items():
        means = (f"{statistics.mean(run[domain] for run in runs):.1%}" for domain in runs[0])
        table.add_row(method, *means, ", ".join(f"{run['target']:.1%}" for run in runs))
    console.print(table)
    write_json(arguments.folder / "results.json", results)


if __name__ == "__main__":
    main()
