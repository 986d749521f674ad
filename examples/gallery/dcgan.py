"""DCGAN: digits from noise, by convolutions (https://arxiv.org/abs/1511.06434)."""

import keras
from _show import digits, save_rows
from keras import layers

import finegrain as fg

EPOCHS = 60
keras.utils.set_random_seed(0)
images, _ = digits()

generator = keras.Sequential(
    [
        keras.Input((16,)),
        layers.Dense(2 * 2 * 64, use_bias=False),
        layers.Reshape((2, 2, 64)),
        layers.BatchNormalization(),
        layers.ReLU(),
        fg.layers.Conv2DTranspose(32, 4, 2, "same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        fg.layers.Conv2DTranspose(1, 4, 2, "same", activation="tanh"),
    ]
)
discriminator = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(32, 4, 2, "same"),
        layers.LeakyReLU(0.2),
        layers.Conv2D(64, 4, 2, "same"),
        layers.LeakyReLU(0.2),
        layers.Flatten(),
        layers.Dense(1),
    ]
)
gan = fg.models.GAN(generator, discriminator, "non_saturating", ema_momentum=0.99, seed=0)
slower = fg.Rule(discriminator, learning_rate_multiplier=0.5)
gan.compile(fg.PerWeight(keras.optimizers.Adam(1e-3, beta_1=0.5), [slower]))

gan.fit(images, batch_size=64, epochs=EPOCHS, verbose=2)
save_rows("dcgan", {"real": images[:16], "made": gan.generate(16, seed=0)})
