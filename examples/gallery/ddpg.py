"""DDPG: an actor swings a pendulum up, led by a critic (https://arxiv.org/abs/1509.02971)."""

import keras
import numpy as np
from _show import axes, save
from keras import layers, ops

import finegrain as fg

EPOCHS = 30
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)


def network(inputs, activation=None):
    hidden = [layers.Dense(64, "relu"), layers.Dense(64, "relu")]
    return keras.Sequential([keras.Input((inputs,)), *hidden, layers.Dense(1, activation)])


def episode(actor, noise):
    """Let 16 pendulums swing for 100 steps of 0.05 s; an angle of 0 is up."""
    angle, speed = rng.uniform(-np.pi, np.pi, (16, 1)), rng.uniform(-1, 1, (16, 1))
    moves, state = [], np.hstack([np.cos(angle), np.sin(angle), speed / 8])
    for _ in range(100):
        action = np.clip(actor.predict_on_batch(state) + noise * rng.normal(size=(16, 1)), -1, 1)
        reward = -(angle**2 + 0.1 * speed**2 + 0.004 * action**2) / 10
        speed = np.clip(speed + 0.05 * (15 * np.sin(angle) + 6 * action), -8, 8)
        angle = (angle + 0.05 * speed + np.pi) % (2 * np.pi) - np.pi
        after = np.hstack([np.cos(angle), np.sin(angle), speed / 8])
        moves.append({"state": state, "action": action, "reward": reward, "after": after})
        state = after
    return {name: np.concatenate([move[name] for move in moves]) for name in moves[0]}


def losses(actor, critic, old_actor, old_critic, x):
    value = critic(ops.concatenate([x["state"], x["action"]], -1))
    goal = x["reward"] + 0.97 * old_critic(ops.concatenate([x["after"], old_actor(x["after"])], -1))
    hoped = critic(ops.concatenate([x["state"], actor(x["state"])], -1))
    return {"critic": ops.mean((value - goal) ** 2), "actor": -ops.mean(hoped)}


networks = {"actor": network(3, "tanh"), "critic": network(4)}
averages = {"old_actor": ("actor", 0.99), "old_critic": ("critic", 0.99)}
game = fg.models.Game(networks, losses, averages=averages)
game.compile(keras.optimizers.Adam(1e-3))
memory, rewards = [], []
for _ in range(EPOCHS):
    memory.append(episode(networks["actor"], 0.3))
    rewards.append(memory[-1]["reward"].sum() / 16)
    drawn = rng.integers(len(memory) * 1600, size=100 * 64)
    x = {name: np.concatenate([part[name] for part in memory])[drawn] for name in memory[0]}
    game.fit(x, batch_size=64, verbose=0)
last = episode(networks["actor"], 0.0)
print(f"Rewards: {rewards[0]:.1f} before training, {last['reward'].sum() / 16:.1f} after it")
left, right = axes(2)
left.plot(rewards)
left.set(xlabel="episode", ylabel="sum of rewards")
right.plot(last["after"][:, 0].reshape(100, 16), "C0", alpha=0.4)
right.set(xlabel="step", ylabel="height of the pendulum")
save("ddpg", right)
