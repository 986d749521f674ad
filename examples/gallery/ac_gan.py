"""AC-GAN: digits on order, by a discriminator that reads them (https://arxiv.org/abs/1610.09585)."""

import keras
import numpy as np
from _show import digits, save_rows
from keras import layers, ops
from sklearn.svm import SVC

import finegrain as fg

EPOCHS = 150
keras.utils.set_random_seed(0)
images, kinds = digits()


def hidden(x):
    for _ in range(2):
        x = layers.LeakyReLU(0.2)(layers.Dense(128)(x))
    return x


noise, order = keras.Input((16,)), keras.Input((), dtype="int32")
joined = layers.Concatenate()([noise, layers.Embedding(10, 16)(order)])
made = layers.Reshape((8, 8, 1))(layers.Dense(64, "tanh")(hidden(joined)))
generator = keras.Model([noise, order], made)

image = keras.Input((8, 8, 1))
seen = hidden(layers.Flatten()(image))
discriminator = keras.Model(image, [layers.Dense(1)(seen), layers.Dense(10)(seen)])

read_as = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def of_discriminator(real, fake, labels):
    (real_score, real_kind), (fake_score, fake_kind) = real, fake
    scores = ops.mean(ops.softplus(-real_score) + ops.softplus(fake_score))
    return scores + read_as(labels, real_kind) + read_as(labels, fake_kind)


def of_generator(fake, labels):
    score, kind = fake
    return ops.mean(ops.softplus(-score)) + read_as(labels, kind)


losses = of_discriminator, of_generator
gan = fg.models.GAN(generator, discriminator, losses, ema_momentum=0.99, seed=0)
gan.compile(keras.optimizers.Adam(1e-3, beta_1=0.5))
gan.fit(images, kinds, batch_size=128, epochs=EPOCHS, verbose=0)

orders = np.arange(1000) % 10
made = gan.generate(1000, seed=0, labels=orders)
pixels, made_pixels = images.reshape(-1, 64), made.reshape(-1, 64)
reader = SVC().fit(pixels[:1000], kinds[:1000])
print(f"A reader of real digits is right in {reader.score(pixels[1000:], kinds[1000:]):.1%} of")
print(f"other real ones, and in {reader.score(made_pixels, orders):.1%} of those made on order")
save_rows("ac_gan", {f"made {i + 1}": made[10 * i : 10 * i + 10] for i in range(4)})
