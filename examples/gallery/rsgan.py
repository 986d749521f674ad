"""RSGAN: is a real sample more real than a made one? (https://arxiv.org/abs/1807.00734)."""

import keras
from _show import digits, distance, save_rows
from keras import layers

import finegrain as fg

EPOCHS = 120
images, _ = digits()


def play(penalties):
    keras.utils.set_random_seed(0)
    generator = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(128, "relu"),
            layers.Dense(128, "relu"),
            layers.Dense(64, "tanh"),
            layers.Reshape((8, 8, 1)),
        ]
    )
    discriminator = keras.Sequential(
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
    gan = fg.models.GAN(
        generator, discriminator, "relativistic", penalties=penalties, ema_momentum=0.99, seed=0
    )
    gan.compile(keras.optimizers.Adam(1e-3, beta_1=0.5))
    gan.fit(images, batch_size=128, epochs=EPOCHS, verbose=0)
    made = gan.generate(1797, seed=0)
    real_first = gan.predict(images, verbose=0) > gan.predict(made, verbose=0)
    print(f"{penalties}: energy distance {distance(images, made):.3f},")
    print(f"{real_first.mean():.0%} of pairs told apart, 50% by chance")
    return made[:16]


rows = {"real": images[:16], "made": play([]), "with R1": play([("r1", 1.0)])}
print(
    f"Energy distance between two halves of the digits: {distance(images[::2], images[1::2]):.3f}"
)
save_rows("rsgan", rows)
