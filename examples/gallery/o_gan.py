"""O-GAN: a discriminator that is an encoder, too (https://arxiv.org/abs/1903.01931)."""

import keras
import numpy as np
from _show import digits, save_rows
from keras import layers, ops

import finegrain as fg

EPOCHS = 200
keras.utils.set_random_seed(0)
images, _ = digits()


def dense(size):
    return [layers.Dense(size), layers.LeakyReLU(0.2)]


made = [layers.Dense(64, "tanh"), layers.Reshape((8, 8, 1))]
generator = keras.Sequential([keras.Input((16,)), *dense(128), *dense(128), *made])
encoder = keras.Sequential(
    [keras.Input((8, 8, 1)), layers.Flatten(), *dense(128), *dense(128), layers.Dense(16)]
)


def correlation(one, other):
    one, other = (ops.subtract(x, ops.mean(x, axis=1, keepdims=True)) for x in (one, other))
    return ops.sum(ops.normalize(one) * ops.normalize(other), axis=1)


def of_encoder(real, fake, real_samples, fake_samples, noise):
    above = ops.mean(real, axis=1) - ops.mean(fake, axis=1)
    apart = ops.mean((real_samples - fake_samples) ** 2, axis=(1, 2, 3))
    return ops.mean(above**2 / (4 * apart) - above - correlation(noise, fake) / 2)


def of_generator(fake, noise):
    return ops.mean(-ops.mean(fake, axis=1) - correlation(noise, fake) / 2)


gan = fg.models.GAN(generator, encoder, (of_encoder, of_generator), ema_momentum=0.99, seed=0)
gan.compile(keras.optimizers.Adam(1e-3, beta_1=0.5))
gan.fit(images, batch_size=128, epochs=EPOCHS, verbose=0)

noise = np.random.default_rng(0).normal(size=(1797, 16)).astype("float32")
made = gan.predict(noise, "average", verbose=0)
found = ops.mean(correlation(noise, gan.predict(made, verbose=0)))
print(f"Correlation of the noise with the code of what is made of it: {found:.2f}")
codes = gan.predict(images, verbose=0)
codes = (codes - codes.mean(1, keepdims=True)) / codes.std(1, keepdims=True)
again = gan.predict(codes, "average", verbose=0)
errors = [((again - other) ** 2).mean() for other in (images, images[::-1])]
print(f"Mean square error: {errors[0]:.2f} of digits made again, {errors[1]:.2f} of other digits")
save_rows("o_gan", {"made": made[:16], "real": images[:16], "made again": again[:16]})
