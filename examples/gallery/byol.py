"""BYOL: predicting what an average of oneself sees (https://arxiv.org/abs/2006.07733)."""

import keras
import numpy as np
from _show import axes, digits, save
from keras import layers, ops
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

import finegrain as fg

EPOCHS = 60
keras.utils.set_random_seed(0)
images, kinds = digits()
overlaid = images + np.random.default_rng(0).permutation(images) / 2


def view(x, seed):
    """Lay another digit over each, half as strong."""
    return x + keras.random.shuffle(x, seed=seed) / 2


def dense(inputs, units):
    hidden = [layers.Dense(256), layers.BatchNormalization(), layers.ReLU()]
    return keras.Sequential([keras.Input(inputs), layers.Flatten(), *hidden, layers.Dense(units)])


def losses(online, predictor, target, x, seed):
    one, other = view(x, seed), view(x, seed)

    def apart(seen, goal):
        predicted = ops.normalize(predictor(online(seen)), axis=-1)
        return ops.mean(ops.sum((predicted - ops.normalize(target(goal), axis=-1)) ** 2, axis=-1))

    return {"apart": apart(one, other) + apart(other, one)}


game = fg.models.Game(
    {"online": dense((8, 8, 1), 8), "predictor": dense((8,), 8)},
    losses,
    reach={"apart": ["online", "predictor"]},
    averages={"target": ("online", 0.98)},
)
game.compile(keras.optimizers.Adam(2e-3))

for ax, when in zip(axes(2), ["before", "after"], strict=True):
    if when == "after":
        game.fit(images[:1280], batch_size=128, epochs=EPOCHS, verbose=2)
    codes = game.predict(overlaid, "online", verbose=0)
    probe = LogisticRegression(max_iter=3000).fit(codes[:1280], kinds[:1280])
    score = probe.score(codes[1280:], kinds[1280:])
    print(f"A linear classifier of codes {when} training reads {score:.1%}")
    ax.scatter(*PCA(2).fit_transform(codes).T, c=kinds, cmap="tab10", s=6)
    ax.set_title(f"{when} training: {score:.1%}")
save("byol", ax)
