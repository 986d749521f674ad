"""GauGAN: a map tells each layer what goes where (https://arxiv.org/abs/1903.07291)."""

import keras
from _show import digits, save_rows
from keras import layers, ops

import finegrain as fg

EPOCHS = 40
keras.utils.set_random_seed(0)
images, _ = digits()


def mapped(images):
    return (images.reshape(-1, 4, 2, 4, 2, 1).mean((2, 4)) > 0).astype("float32")


def spade(hidden, where):
    seen = ops.image.resize(where, hidden.shape[1:3], "nearest")
    seen = layers.Conv2D(16, 3, padding="same", activation="relu")(seen)
    scale, shift = (layers.Conv2D(hidden.shape[-1], 3, padding="same")(seen) for _ in range(2))
    return layers.BatchNormalization(center=False, scale=False)(hidden) * (1 + scale) + shift


noise, where = keras.Input((16,)), keras.Input((4, 4, 1))
hidden = layers.Reshape((2, 2, 24))(layers.Dense(2 * 2 * 24)(noise))
for _ in range(2):
    hidden = layers.LeakyReLU(0.2)(spade(hidden, where))
    hidden = layers.UpSampling2D()(layers.Conv2D(24, 3, padding="same")(hidden))
hidden = layers.LeakyReLU(0.2)(spade(hidden, where))
made = layers.Conv2D(1, 3, padding="same", activation="tanh")(hidden)
generator = keras.Model([noise, where], made)

image, where = keras.Input((8, 8, 1)), keras.Input((4, 4, 1))
first = layers.Concatenate()([image, layers.UpSampling2D()(where)])
first = layers.LeakyReLU(0.2)(layers.Conv2D(24, 4, 2, "same")(first))
second = layers.LeakyReLU(0.2)(layers.Conv2D(48, 4, 2, "same")(first))
discriminator = keras.Model([image, where], [layers.Conv2D(1, 2)(second), first, second])


def of_discriminator(real, fake):
    return ops.mean(ops.relu(1 - real[0])) + ops.mean(ops.relu(1 + fake[0]))


def of_generator(real, fake):
    features = sum(ops.mean(abs(a - b)) for a, b in zip(real[1:], fake[1:], strict=True))
    return 10 * features - ops.mean(fake[0])


gan = fg.models.GAN(generator, discriminator, (of_discriminator, of_generator), seed=0)
gan.compile(keras.optimizers.Adam(1e-3, beta_1=0.0))
gan.fit(images[:1400], mapped(images[:1400]), batch_size=64, epochs=EPOCHS, verbose=0)

maps = mapped(images[1400:])
made = [gan.generate(397, seed=seed, labels=maps) for seed in range(2)]
follows = [(mapped(made[0]) == other).mean() for other in (maps, maps[::-1])]
print(f"{follows[0]:.1%} of the fields are as their map says, {follows[1]:.1%} as another map says")
print(f"Another noise changes a pixel, in [-1, 1], by {abs(made[0] - made[1]).mean():.3f}")
rows = {"map": 2 * maps.repeat(2, 1).repeat(2, 2) - 1, "made": made[0], "again": made[1]}
save_rows("gaugan", {name: row[:16] for name, row in (rows | {"real": images[1400:]}).items()})
