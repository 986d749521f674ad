"""VAE-GAN: likeness as a discriminator sees it (https://arxiv.org/abs/1512.09300)."""

import keras
import numpy as np
from _show import digits, save_rows
from keras import layers, ops

import finegrain as fg

EPOCHS = 150
keras.utils.set_random_seed(0)
images, _ = digits()
pixels = images.reshape(-1, 64)


def network(inputs, *heads):
    first = hidden = keras.Input((inputs,))
    for _ in range(2):
        hidden = layers.LeakyReLU(0.2)(layers.Dense(128)(hidden))
    outputs = [head(hidden) for head in heads]
    return keras.Model(first, outputs if len(outputs) > 1 else outputs[0])


def losses(encoder, decoder, plain, judge, x, seed):
    mean, log_variance = encoder(x)
    drawn = keras.random.normal(ops.shape(mean), seed=seed)
    code = mean + drawn * ops.exp(log_variance / 2)
    prior = ops.mean(ops.exp(log_variance) + mean**2 - 1 - log_variance) / 2
    (score, seen), (score_again, seen_again) = judge(x), judge(decoder(code))
    score_new, _ = judge(decoder(drawn))
    fakes = ops.concatenate([score_again, score_new], axis=0)
    return {
        "prior": 0.1 * prior,
        "like": ops.mean((seen - seen_again) ** 2),
        "fool": 0.1 * ops.mean(ops.softplus(-fakes)),
        "judge": ops.mean(ops.softplus(-score)) + ops.mean(ops.softplus(fakes)),
        "pixels": ops.mean((plain(code) - x) ** 2),
    }


networks = {
    "encoder": network(64, layers.Dense(4), layers.Dense(4)),
    "decoder": network(4, layers.Dense(64, "tanh")),
    "plain": network(4, layers.Dense(64, "tanh")),
    "judge": network(64, layers.Dense(1), layers.Identity()),
}
reach = {"prior": "encoder", "like": ["encoder", "decoder"], "fool": "decoder"}
reach |= {"judge": "judge", "pixels": "plain"}
game = fg.models.Game(networks, losses, reach, seed=0)
game.compile(keras.optimizers.Adam(1e-3, beta_1=0.5))
game.fit(pixels, batch_size=128, epochs=EPOCHS, verbose=0)

codes, _ = game.predict(pixels, "encoder", verbose=0)
rows = {"real": images}
for title, name in (("by pixels", "plain"), ("by likeness", "decoder")):
    rows[title] = game.predict(codes, name, verbose=0).reshape(-1, 8, 8, 1)
for title, row in rows.items():
    error, step = ((row - images) ** 2).mean(), abs(np.diff(row, axis=2)).mean()
    print(f"{title}: mean square error {error:.3f}, neighbouring pixels differ by {step:.3f}")
save_rows("vae_gan", {title: row[:16] for title, row in rows.items()})
