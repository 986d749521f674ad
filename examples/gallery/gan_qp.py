"""GAN-QP: no penalty on slopes, no bound on the critic (https://arxiv.org/abs/1811.07296)."""

import keras
from _show import digits, distance, save_rows
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


def of_critic(real, fake, real_samples, fake_samples):
    above = (real - fake)[:, 0]
    apart = ops.mean(abs(real_samples - fake_samples), axis=(1, 2, 3))
    return ops.mean(above**2 / (2 * 10 * apart) - above)


def of_generator(real, fake):
    return ops.mean(real - fake)


gan = fg.models.GAN(generator, critic, (of_critic, of_generator), ema_momentum=0.99, seed=0)
gan.compile(keras.optimizers.Adam(1e-3, beta_1=0.5))

untrained = distance(images, gan.generate(1797, seed=0))
gan.fit(images, batch_size=128, epochs=EPOCHS, verbose=0)
made = gan.generate(1797, seed=0)
print(f"Energy distance: {untrained:.2f} before training, {distance(images, made):.3f} after,")
print(f"{distance(images[::2], images[1::2]):.3f} between two halves of the digits")
save_rows("gan_qp", {"real": images[:16], "made": made[:16]})
