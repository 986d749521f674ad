"""What the gallery shares: scikit-learn's digits, and pictures in build/gallery."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits

FOLDER = Path("build/gallery")


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return 1,797 images, (n, 8, 8, 1) float32 in [-1, 1], and their digits, (n,) int32."""
    images, kinds = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1) / 8 - 1
    order = np.random.default_rng(0).permutation(len(images))
    return images[order].astype("float32"), kinds[order].astype("int32")


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the energy distance between two sets of samples: 0 if they are distributed alike."""
    one, other = one.reshape(len(one), -1), other.reshape(len(other), -1)
    within = cdist(one, one).mean() + cdist(other, other).mean()
    return float(2 * cdist(one, other).mean() - within)


def axes(number: int = 1, height: float = 3.2) -> list[Axes]:
    """Make axes side by side, in a figure that `save` writes."""
    figure = Figure(figsize=(8, height), layout="constrained")
    return list(figure.subplots(1, number, squeeze=False)[0])


def save(name: str, ax: Axes) -> None:
    """Write the figure of these axes to build/gallery."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    ax.get_figure(root=True).savefig(FOLDER / f"{name}.png", dpi=100)
    print(f"Picture: {FOLDER / f'{name}.png'}")


def save_rows(name: str, rows: Mapping[str, np.ndarray]) -> None:
    """Draw a row of images, (n, height, width, 1 or 3) in [-1, 1], for each title."""
    figure = Figure(figsize=(8, 0.9 * len(rows)), layout="constrained")
    for ax, (title, images) in zip(
        figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True
    ):
        framed = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-0.5)
        row = np.concatenate(list(framed), axis=1).clip(-1, 1)
        ax.imshow(row if row.shape[-1] == 3 else row[..., 0], "gray_r", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.set_ylabel(title, rotation=0, ha="right", va="center")
    save(name, ax)
