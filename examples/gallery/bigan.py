"""BiGAN: an encoder that inverts the generator (https://arxiv.org/abs/1605.09782)."""

import keras
from _show import digits, save_rows
from keras import layers, ops
from sklearn.linear_model import LogisticRegression

import finegrain as fg

EPOCHS = 150
keras.utils.set_random_seed(0)
images, kinds = digits()
pixels = images.reshape(-1, 64)


def network(inputs, outputs, activation=None):
    hidden = [layer for _ in range(2) for layer in (layers.Dense(128), layers.LeakyReLU(0.2))]
    return keras.Sequential([keras.Input((inputs,)), *hidden, layers.Dense(outputs, activation)])


def losses(encoder, generator, judge, x, seed):
    noise = keras.random.normal((ops.shape(x)[0], 16), seed=seed)
    found = judge(ops.concatenate([x, encoder(x)], axis=1))
    made = judge(ops.concatenate([generator(noise), noise], axis=1))
    return {
        "judge": ops.mean(ops.softplus(-found) + ops.softplus(made)),
        "fool": ops.mean(ops.softplus(found) + ops.softplus(-made)),
    }


def accuracy(name):
    codes = game.predict(pixels, name, verbose=0)
    return (
        LogisticRegression(max_iter=3000)
        .fit(codes[:1000], kinds[:1000])
        .score(codes[1000:], kinds[1000:])
    )


game = fg.models.Game(
    {"encoder": network(64, 16), "generator": network(16, 64, "tanh"), "judge": network(80, 1)},
    losses,
    {"judge": "judge", "fool": ["encoder", "generator"]},
    averages={"mean_encoder": ("encoder", 0.99), "mean_generator": ("generator", 0.99)},
    seed=0,
)
game.compile(keras.optimizers.Adam(1e-3, beta_1=0.5))
print(f"Digits read from codes, before training: {accuracy('encoder'):.1%}")
game.fit(pixels, batch_size=128, epochs=EPOCHS, verbose=0)
print(f"after: {accuracy('mean_encoder'):.1%}")

codes = game.predict(pixels, "mean_encoder", verbose=0)
again = game.predict(codes, "mean_generator", verbose=0)
errors = [((again - other) ** 2).mean() for other in (pixels, pixels[::-1])]
print(f"Mean square error: {errors[0]:.2f} of digits made again, {errors[1]:.2f} of other digits")
save_rows("bigan", {"real": images[:16], "made again": again[:16].reshape(-1, 8, 8, 1)})
