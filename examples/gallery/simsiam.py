"""SimSiam: what two views share, without collapse (https://arxiv.org/abs/2011.10566)."""

import keras
import numpy as np
from _show import axes, digits, save
from keras import layers, ops
from sklearn.linear_model import LogisticRegression

import finegrain as fg

EPOCHS = 60
images, kinds = digits()
overlaid = images + np.random.default_rng(0).permutation(images) / 2


def view(x, seed):
    """Lay another digit over each, half as strong."""
    return x + keras.random.shuffle(x, seed=seed) / 2


def dense(inputs, units):
    hidden = [layers.Dense(256), layers.BatchNormalization(), layers.ReLU()]
    parts = [keras.Input(inputs), layers.Flatten(), *hidden, layers.Dense(units)]
    return keras.Sequential(parts)


def far(predicted, goal):
    cosine = ops.normalize(predicted, axis=-1) * ops.normalize(goal, axis=-1)
    return -ops.mean(ops.sum(cosine, axis=-1))


def score(encoder):
    codes, test = np.split(encoder.predict(overlaid, verbose=0), [1280])
    return LogisticRegression(max_iter=3000).fit(codes, kinds[:1280]).score(test, kinds[1280:])


def train(stop):
    def losses(encoder, predictor, x, seed):
        one, other = encoder(view(x, seed)), encoder(view(x, seed))
        loss = far(predictor(one), stop(other)) + far(predictor(other), stop(one))
        return {"views": loss / 2, "spread": ops.mean(ops.std(ops.normalize(one), axis=0))}

    keras.utils.set_random_seed(0)
    encoder = dense((8, 8, 1), 8)
    networks = {"encoder": encoder, "predictor": dense((8,), 8)}
    game = fg.models.Game(networks, losses, {"views": list(networks)}, reports=["spread"])
    game.compile(keras.optimizers.Adam(2e-3))
    before = score(encoder)
    fit = game.fit(images[:1280], batch_size=128, epochs=EPOCHS, verbose=0)
    return before, score(encoder), fit.history["spread"]


(ax,) = axes()
for name, stop in {"stopped": ops.stop_gradient, "not stopped": lambda code: code}.items():
    before, after, spread = train(stop)
    print(f"{name}: a linear classifier reads {before:.1%} before, {after:.1%} after")
    ax.plot(spread, label=name)
ax.set(xlabel="epoch", ylabel="spread of codes", ylim=(0, 0.4))
ax.legend()
save("simsiam", ax)
