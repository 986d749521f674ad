"""pix2pix: the hidden half of an image, guessed sharply (https://arxiv.org/abs/1611.07004)."""

import keras
from _show import digits, distance, save_rows
from keras import layers, ops

import finegrain as fg

EPOCHS = 60
keras.utils.set_random_seed(0)
whole, _ = digits()
halves = whole.copy()
halves[:, 4:] = 0


def translator():
    image = keras.Input((8, 8, 1))
    fine = layers.Conv2D(24, 4, 2, "same", activation="relu")(image)
    coarse = layers.Conv2D(48, 4, 2, "same", activation="relu")(fine)
    back = fg.layers.Conv2DTranspose(24, 4, 2, "same", activation="relu")(coarse)
    joined = layers.Concatenate()([fine, back])
    made = fg.layers.Conv2DTranspose(1, 4, 2, "same", activation="tanh")(joined)
    return keras.Model(image, made)


judge = keras.Sequential(
    [
        keras.Input((8, 8, 2)),
        layers.Conv2D(24, 4, 2, "same"),
        layers.LeakyReLU(0.2),
        layers.Conv2D(48, 3, 1, "same"),
        layers.LeakyReLU(0.2),
        layers.Conv2D(1, 3, 1, "same"),
    ]
)


def losses(pix2pix, distance_alone, judge, x, y):
    made, mean = pix2pix(x), distance_alone(x)
    real, fake = judge(ops.concatenate([x, y], -1)), judge(ops.concatenate([x, made], -1))
    return {
        "judge": ops.mean(ops.softplus(-real) + ops.softplus(fake)),
        "pix2pix": ops.mean(ops.softplus(-fake)) + 10 * ops.mean(abs(made - y)),
        "distance_alone": ops.mean(abs(mean - y)),
    }


networks = {"judge": judge, "pix2pix": translator(), "distance_alone": translator()}
game = fg.models.Game(networks, losses)
game.compile(keras.optimizers.Adam(1e-3, beta_1=0.5))
game.fit(halves[:1400], whole[:1400], batch_size=64, epochs=EPOCHS, verbose=0)

rows = {"given": halves[1400:], "real": whole[1400:]}
for name in ("distance_alone", "pix2pix"):
    rows[name] = game.predict(halves[1400:], name, verbose=0)
    error = abs(rows[name] - rows["real"]).mean()
    apart = distance(rows[name], rows["real"])
    print(f"{name}: mean absolute error {error:.3f}, distance between distributions {apart:.3f}")
save_rows("pix2pix", {name: row[:16] for name, row in rows.items()})
