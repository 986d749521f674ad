"""What the GAN examples share: grids of samples, curves of losses, a distance, files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    r"""Compute the squared Fréchet distance of normal distributions with the samples' moments.

    $$\lVert\mu_1 - \mu_2\rVert^2 + \text{tr}\big(\Sigma_1 + \Sigma_2
      - 2\,(\Sigma_1 \Sigma_2)^{1/2}\big)$$

    Args:
        one: (samples, features).
        other: (samples, features), another number of samples if need be.

    References:
        Martin Heusel et al., GANs trained by a two time-scale update rule converge to a local
        Nash equilibrium, 2017, https://arxiv.org/abs/1706.08500
    """
    one, other = np.asarray(one, "float64"), np.asarray(other, "float64")
    covariance, covariance_of_other = np.cov(one.T), np.cov(other.T)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # Σ₁Σ₂ has the eigenvalues of the symmetric product of Σ₁^½ Σ₂ Σ₁^½.
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance_of_other @ root), 0)).sum()
    means = np.sum((one.mean(0) - other.mean(0)) ** 2)
    return float(means + np.trace(covariance) + np.trace(covariance_of_other) - 2 * shared)


def grid(images: np.ndarray, columns: int = 8, border: int = 1) -> np.ndarray:
    """Join images, (n, height, width) or (n, height, width, 1), into one, in whole rows only."""
    rows = len(images) // columns
    tiles = images[: rows * columns].reshape(rows, columns, *images.shape[1:3])
    line = 0.75 * tiles.min() + 0.25 * tiles.max()
    tiles = np.pad(tiles, [(0, 0), (0, 0), *[(border, border)] * 2], constant_values=line)
    return tiles.transpose(0, 2, 1, 3).reshape(rows * tiles.shape[2], columns * tiles.shape[3])


def save_grid(path: Path, images: np.ndarray, scale: int = 1) -> None:
    """Save the images as a PNG, dark on light."""
    picture = grid(images).repeat(scale, 0).repeat(scale, 1)
    imsave(path, picture, cmap="gray_r")


def save_curves(path: Path, curves: Mapping[str, Sequence[float]], every: int) -> None:
    """Save the curves, each point of which is a mean over `every` steps, as a PNG."""
    figure = Figure(figsize=(6.0, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        axes.plot(np.arange(1, len(values) + 1) * every, values, label=name.replace("_", " "))
    axes.set(xlabel="step")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=90)


class Curves(keras.callbacks.Callback):
    """The means of the metrics over blocks of steps.

    Keras reports means since the epoch began: those of a block follow from the two at its ends.
    """

    def __init__(self, names: Sequence[str], every: int) -> None:
        super().__init__()
        self.values: dict[str, list[float]] = {name: [] for name in names}
        self.every = every
        self.sums = dict.fromkeys(names, 0.0)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.sums = dict.fromkeys(self.values, 0.0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        steps = batch + 1
        if steps % self.every == 0:
            for name, values in self.values.items():
                total = float(logs[name]) * steps
                values.append((total - self.sums[name]) / self.every)
                self.sums[name] = total


class Grids(keras.callbacks.Callback):
    """A grid of samples after each epoch, from the same noise."""

    def __init__(self, folder: Path, sample: Callable[[], np.ndarray], scale: int = 1) -> None:
        super().__init__()
        self.folder, self.sample, self.scale = folder, sample, scale

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        save_grid(self.folder / f"epoch-{epoch + 1:02}.png", self.sample(), self.scale)


def write_json(path: Path, value: Any) -> None:
    """Write the value as JSON, so that the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(draft, path)
