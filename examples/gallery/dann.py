"""DANN: features that hide where a sample comes from (https://arxiv.org/abs/1505.07818)."""

import keras
import numpy as np
from _show import axes, save
from keras import layers, ops
from sklearn.datasets import make_moons

import finegrain as fg

EPOCHS = 100
keras.utils.set_random_seed(0)


def moons(angle, seed):
    points, kinds = make_moons(500, noise=0.1, random_state=seed)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    points = (points - [0.5, 0.25]) @ [[cos, sin], [-sin, cos]]
    return points.astype("float32"), kinds[:, None].astype("float32")


def network(inputs, units, outputs, activation):
    return keras.Sequential(
        [keras.Input((inputs,)), layers.Dense(units, "tanh"), layers.Dense(outputs, activation)]
    )


(source, kinds), (target, answers) = moons(0, 0), moons(35, 1)


def losses(features, kind, domain, x, y):
    of_source, of_target = features(x["source"]), features(x["target"])
    here, there = domain(of_source), domain(of_target)
    told = -ops.mean(ops.log(here + 1e-6)) - ops.mean(ops.log(1 - there + 1e-6))
    read = ops.mean(keras.losses.binary_crossentropy(y, kind(of_source)))
    return {"kind": read, "domain": told, "hide": -told}


reach = {"kind": ["features", "kind"], "domain": "domain", "hide": "features"}
across, up = np.meshgrid(np.linspace(-2.2, 2.2, 100), np.linspace(-1.7, 1.7, 80))
plane = np.stack([across, up], -1).reshape(-1, 2).astype("float32")
for ax, strength in zip(axes(2), (0.0, 0.5), strict=True):
    networks = {
        "features": network(2, 32, 16, "tanh"),
        "kind": network(16, 16, 1, "sigmoid"),
        "domain": network(16, 32, 1, "sigmoid"),
    }
    game = fg.models.Game(networks, losses, reach)
    game.compile(keras.optimizers.Adam(3e-3), loss_weights={"hide": strength})
    game.fit({"source": source, "target": target}, kinds, batch_size=50, epochs=EPOCHS, verbose=0)
    reader = keras.Sequential([networks["features"], networks["kind"]])
    share = np.mean((reader.predict(target, verbose=0) > 0.5) == answers)
    title = f"strength {strength:.1f}: {share:.1%} of turned moons"
    print(title)
    ax.contourf(across, up, reader.predict(plane, verbose=0).reshape(across.shape), alpha=0.4)
    ax.scatter(*source.T, 3, "k", alpha=0.3)
    ax.scatter(*target.T, 3, answers, cmap="coolwarm")
    ax.set(title=title, xticks=[], yticks=[])
save("dann", ax)
