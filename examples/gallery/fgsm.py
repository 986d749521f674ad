"""FGSM: training on the worst small change of each image (https://arxiv.org/abs/1412.6572)."""

import keras
import numpy as np
from _show import axes, digits, save
from keras import layers, ops

import finegrain as fg

EPOCHS = 60
keras.utils.set_random_seed(0)
images, kinds = digits()
train, test = slice(0, 1000), slice(1000, None)


def network():
    return keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(128, "relu"), layers.Dense(10)]
    )


def of(model, x, y):
    return keras.losses.sparse_categorical_crossentropy(y, model(x), from_logits=True)


def attacked(model, x, y, size):
    return ops.add(x, size * ops.sign(fg.routing.gradient(lambda x: of(model, x, y), x)))


def losses(plain, robust, x, y):
    worst = ops.stop_gradient(attacked(robust, x, y, 0.3))
    return {
        "plain": ops.mean(of(plain, x, y)),
        "robust": 0.5 * ops.mean(of(robust, x, y)) + 0.5 * ops.mean(of(robust, worst, y)),
    }


game = fg.models.Game({"plain": network(), "robust": network()}, losses)
game.compile("adam")
game.fit(images[train], kinds[train], batch_size=64, epochs=EPOCHS, verbose=0)

left, ax = axes(2)
sizes = np.linspace(0, 0.5, 11)
for name, model in game.networks.items():
    changed = [
        ops.convert_to_numpy(attacked(model, images[test], kinds[test], size)) for size in sizes
    ]
    shares = [np.mean(np.argmax(model.predict(x, verbose=0), -1) == kinds[test]) for x in changed]
    print(f"{name}: {shares[0]:.1%} right, {shares[6]:.1%} after an attack of {sizes[6]:.1f}")
    ax.plot(sizes, shares, label=name)
    if name == "plain":
        rows = [
            np.hstack(x[:6, :, :, 0]) for x in (changed[0], changed[6] - changed[0], changed[6])
        ]
left.imshow(np.vstack(rows), "gray_r", vmin=-1, vmax=1)
left.set(xticks=[], yticks=[], title="digits, change of 0.3, both")
ax.set(xlabel="size of the change", ylabel="share that is read right")
ax.legend()
save("fgsm", ax)
