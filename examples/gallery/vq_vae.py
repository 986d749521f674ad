"""VQ-VAE: digits written in 16 codes each (https://arxiv.org/abs/1711.00937)."""

import keras
import numpy as np
from _show import digits, save_rows
from keras import layers, ops

import finegrain as fg

EPOCHS = 40
CODES = 32
keras.utils.set_random_seed(0)
images, _ = digits()
train, test = images[:1500], images[1500:]

encoder = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(32, 4, 2, "same", activation="relu"),
        layers.Conv2D(32, 3, 1, "same", activation="relu"),
        layers.Conv2D(8, 1),
    ]
)
decoder = keras.Sequential(
    [
        keras.Input((4, 4, 8)),
        layers.Conv2D(32, 3, 1, "same", activation="relu"),
        fg.layers.Conv2DTranspose(32, 4, 2, "same", activation="relu"),
        layers.Conv2D(1, 3, 1, "same", activation="tanh"),
    ]
)
book = layers.Embedding(CODES, 8)
book.build()


def nearest(codes, book):
    distances = ops.sum((codes[..., None, :] - book(ops.arange(CODES))) ** 2, -1)
    return ops.argmin(distances, -1)


def losses(encoder, book, decoder, x):
    codes = encoder(x)
    chosen = book(nearest(codes, book))
    distance = ops.mean((codes - chosen) ** 2)
    made = decoder(fg.routing.straight_through(chosen, codes))
    return {"made": ops.mean((made - x) ** 2), "book": distance, "commit": 0.25 * distance}


networks = {"encoder": encoder, "book": book, "decoder": decoder}
reach = {"made": ["encoder", "decoder"], "book": "book", "commit": "encoder"}
game = fg.models.Game(networks, losses, reach)
game.compile(keras.optimizers.Adam(2e-3))
game.fit(train, batch_size=64, epochs=EPOCHS, verbose=0)

written = ops.convert_to_numpy(nearest(encoder(test), book))
made = ops.convert_to_numpy(decoder(book(written)))
print(f"{len(np.unique(written))} of {CODES} codes are used")
print(f"Error {np.mean((made - test) ** 2):.3f}, of the mean image {test.var(0).mean():.3f}")
save_rows("vq_vae", {"unseen": test[:16], "from codes": made[:16]})
