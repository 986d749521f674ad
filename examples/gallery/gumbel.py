"""Gumbel-softmax: an autoencoder that makes choices (https://arxiv.org/abs/1611.01144)."""

import keras
import numpy as np
from _show import digits, save_rows
from keras import layers, ops

import finegrain as fg

EPOCHS = 60
CHOICES, KINDS = 12, 8
keras.utils.set_random_seed(0)
images, _ = digits()
train, test = images[:1500], images[1500:]

encoder = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Flatten(),
        layers.Dense(128, "relu"),
        layers.Dense(CHOICES * KINDS),
        layers.Reshape((CHOICES, KINDS)),
    ]
)
decoder = keras.Sequential(
    [
        keras.Input((CHOICES, KINDS)),
        layers.Flatten(),
        layers.Dense(128, "relu"),
        layers.Dense(64, "tanh"),
        layers.Reshape((8, 8, 1)),
    ]
)


def chosen(scores):
    return ops.one_hot(ops.argmax(scores, -1), KINDS)


def losses(encoder, decoder, x, seed, step):
    scores = encoder(x)
    noise = -ops.log(-ops.log(keras.random.uniform(ops.shape(scores), 1e-6, 1 - 1e-6, seed=seed)))
    temperature = ops.maximum(0.5, ops.exp(-1e-3 * ops.cast(step, "float32")))
    noisy = (scores + noise) / temperature
    made = decoder(fg.routing.straight_through(chosen(noisy), ops.softmax(noisy)))
    divergence = ops.sum(ops.softmax(scores) * (ops.log_softmax(scores) + np.log(KINDS)), (1, 2))
    error = ops.sum((made - x) ** 2, (1, 2, 3))
    return {"bound": ops.mean(5 * error + divergence)}


networks = {"encoder": encoder, "decoder": decoder}
game = fg.models.Game(networks, losses, {"bound": ["encoder", "decoder"]}, seed=0)
game.compile(keras.optimizers.Adam(2e-3))
game.fit(train, batch_size=64, epochs=EPOCHS, verbose=0)

made = ops.convert_to_numpy(decoder(chosen(encoder(test))))
print(f"Error {np.mean((made - test) ** 2):.3f}, of the mean image {test.var(0).mean():.3f}")
chance = np.random.default_rng(0).integers(KINDS, size=(16, CHOICES))
drawn = ops.convert_to_numpy(decoder(ops.one_hot(chance, KINDS)))
save_rows("gumbel", {"unseen": test[:16], "from choices": made[:16], "from chance": drawn})
