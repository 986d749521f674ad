"""WGAN-GP: a critic with a slope of one measures a distance (https://arxiv.org/abs/1704.00028)."""

import keras
import numpy as np
from _show import axes, digits, distance, save
from keras import layers, ops

import finegrain as fg

EPOCHS = 200
keras.utils.set_random_seed(0)
images, _ = digits()

generator = keras.Sequential(
    [
        keras.Input((16,)),
        layers.Dense(128, "relu"),
        layers.Dense(128, "relu"),
        layers.Dense(64, "tanh"),
        layers.Reshape((8, 8, 1)),
    ]
)
critic = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Flatten(),
        layers.Dense(128),
        layers.LeakyReLU(0.2),
        layers.Dense(128),
        layers.LeakyReLU(0.2),
        layers.Dense(1),
    ]
)


def every_fifth(step):
    return ops.where(step % 5 == 4, 1.0, 0.0)


gan = fg.models.GAN(
    generator, critic, "wasserstein", penalties=["wgan_gp"], ema_momentum=0.99, seed=0
)
rests = fg.Rule(generator, learning_rate_multiplier=every_fifth)
gan.compile(fg.PerWeight(keras.optimizers.Adam(1e-3, beta_1=0.0, beta_2=0.9), [rests]))

untrained = distance(images, gan.generate(1797, seed=0))
log = gan.fit(images, batch_size=128, epochs=EPOCHS, verbose=0).history
estimates = [real - fake for real, fake in zip(log["real_score"], log["fake_score"], strict=True)]
made = gan.generate(1797, seed=0)
print(f"The critic's estimate: {max(estimates):.2f} at most, {estimates[-1]:.2f} at last")
print(f"Energy distance: {untrained:.2f} before training, {distance(images, made):.3f} after,")
print(f"{distance(images[::2], images[1::2]):.3f} between two halves of the digits")

left, right = axes(2)
left.plot(estimates)
left.set(xlabel="epoch", ylabel="critic's estimate of the distance", ylim=(0, None))
framed = np.pad(made[:50, ..., 0], [(0, 0), (1, 1), (1, 1)], constant_values=-1)
right.imshow(framed.reshape(5, 10, 10, 10).swapaxes(1, 2).reshape(50, 100), "gray_r")
right.set(xticks=[], yticks=[], title="made")
save("wgan_gp", left)
