"""Distillation: a student reads digits it never saw (https://arxiv.org/abs/1503.02531)."""

import keras
import numpy as np
from _show import axes, digits, save
from keras import layers, ops

import finegrain as fg

EPOCHS = 100
TEMPERATURE = 8.0
keras.utils.set_random_seed(0)
images, kinds = digits()
train, test = slice(0, 1000), slice(1000, None)
seen = kinds[train] != 3


def network(units):
    return keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(units, "relu"), layers.Dense(10)]
    )


def right(model):
    return np.argmax(model.predict(images[test], verbose=0), -1) == kinds[test]


teacher = network(256)
teacher.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
teacher.fit(images[train], kinds[train], batch_size=64, epochs=EPOCHS, verbose=0)
teacher.trainable = False


def losses(teacher, student, alone, x, y):
    soft = ops.softmax(teacher(x) / TEMPERATURE)
    guess = ops.softmax(student(x) / TEMPERATURE)
    hard = keras.losses.sparse_categorical_crossentropy(y, alone(x), from_logits=True)
    return {
        "student": TEMPERATURE**2 * ops.mean(keras.losses.kl_divergence(soft, guess)),
        "alone": ops.mean(hard),
    }


networks = {"teacher": teacher, "student": network(32), "alone": network(32)}
game = fg.models.Game(networks, losses, {"student": "student", "alone": "alone"})
game.compile("adam")
game.fit(images[train][seen], kinds[train][seen], batch_size=64, epochs=EPOCHS, verbose=0)

threes = kinds[test] == 3
(ax,) = axes()
for place, (name, model) in enumerate(networks.items()):
    found = right(model)
    print(f"{name}: {found.mean():.1%} right, of threes {found[threes].mean():.1%}")
    shares = [found[kinds[test] == kind].mean() for kind in range(10)]
    ax.bar(np.arange(10) + 0.27 * (place - 1), shares, 0.25, label=name)
ax.set(xticks=range(10), ylim=(0, 1.2), xlabel="digit", ylabel="share that is read right")
ax.legend(loc="upper center", ncols=3)
save("distillation", ax)
