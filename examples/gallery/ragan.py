"""RaGAN: more real than the others on average (https://arxiv.org/abs/1807.00734)."""

import keras
import numpy as np
from _show import axes, save
from keras import layers

import finegrain as fg

EPOCHS = 40
keras.utils.set_random_seed(0)
draw = np.random.default_rng(0)
angles = np.arange(8) * np.pi / 4
centers = 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
points = centers[draw.integers(8, size=3200)] + draw.normal(0, 0.05, (3200, 2))


def network(inputs, outputs):
    hidden = [layers.Dense(64, "relu") for _ in range(2)]
    return keras.Sequential([keras.Input((inputs,)), *hidden, layers.Dense(outputs)])


gan = fg.models.GAN(network(8, 2), network(2, 1), "relativistic_average", ema_momentum=0.99, seed=0)
gan.compile(keras.optimizers.Adam(1e-3, beta_1=0.5))

x, y = grid = np.meshgrid(*[np.linspace(-3, 3, 61, dtype="float32")] * 2)
for trained, ax in enumerate(axes(4, height=2.4)):
    if trained:
        gan.fit(points.astype("float32"), batch_size=128, epochs=EPOCHS, verbose=0)
    made = gan.generate(1600, seed=0)
    apart = np.linalg.norm(made[:, None] - centers, axis=-1)
    shares = np.bincount(apart.argmin(1)[apart.min(1) < 0.2], minlength=8) / 1600
    print(f"{trained * EPOCHS} epochs: {shares.sum():.0%} of the samples within 0.2 of a center,")
    print(f"{shares.min():.1%} at the rarest, {shares.max():.1%} at the most frequent")
    scores = gan.predict(np.stack(grid, -1).reshape(-1, 2), verbose=0).reshape(x.shape)
    ax.contourf(x, y, scores, cmap="Blues")
    ax.scatter(*made[:400].T, s=2, color="black")
    ax.set(title=f"{trained * EPOCHS} epochs", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
save("ragan", ax)
