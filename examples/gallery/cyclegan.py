"""CycleGAN: digits into negatives and back, unpaired (https://arxiv.org/abs/1703.10593)."""

import keras
import numpy as np
from _show import digits, save_rows
from keras import layers, ops

import finegrain as fg

EPOCHS = 40
keras.utils.set_random_seed(0)
images, _ = digits()
x, y, test = images[:850], -images[850:1700], images[1700:]


def translator():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(1, 3, padding="same", activation="tanh"),
        ]
    )


def judge():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 4, 2, "same", activation="leaky_relu"),
            layers.Conv2D(32, 4, 2, "same", activation="leaky_relu"),
            layers.Conv2D(1, 1),
        ]
    )


def losses(there, back, judge_x, judge_y, x, y):
    fake_x, fake_y = back(y), there(x)
    score_x, score_y = judge_x(fake_x), judge_y(fake_y)
    fooling = ops.mean((score_x - 1) ** 2) + ops.mean((score_y - 1) ** 2)
    cycle = ops.mean(ops.abs(back(fake_y) - x)) + ops.mean(ops.abs(there(fake_x) - y))
    return {
        "translate": fooling + 10 * cycle,
        "judge_x": ops.mean((judge_x(x) - 1) ** 2) + ops.mean(score_x**2),
        "judge_y": ops.mean((judge_y(y) - 1) ** 2) + ops.mean(score_y**2),
    }


networks = {"there": translator(), "back": translator(), "judge_x": judge(), "judge_y": judge()}
reach = {"translate": ["there", "back"], "judge_x": "judge_x", "judge_y": "judge_y"}
game = fg.models.Game(networks, losses, reach)
game.compile(keras.optimizers.Adam(2e-3, beta_1=0.5))
game.fit(x, y, batch_size=32, epochs=EPOCHS, verbose=0)

made = game.predict(test, "there", verbose=0)
again = game.predict(made, "back", verbose=0)
far, others = np.abs(made + test).mean(), np.abs(np.roll(test, 1, 0) - test).mean()
print(f"Distance from the negatives {far:.2f}, between different digits {others:.2f}")
save_rows("cyclegan", {"unseen": test[:16], "there": made[:16], "and back": again[:16]})
