"""Games of small networks that the tests share, written as users write them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

import drawn
import finegrain as fg

RNG = drawn.generator(0)
X = RNG.normal(size=(12, 3)).astype("float32")
Y = RNG.normal(size=(12, 3)).astype("float32")
LABELS = (np.arange(12) % 2).astype("float32")[:, None]


def network(
    inputs: int, outputs: int, name: str, *, activation: Any = None, norm: bool = False
) -> keras.Model:
    """Make a network of one hidden layer."""
    hidden = [layers.Dense(5, "tanh"), *([layers.BatchNormalization()] if norm else [])]
    last = layers.Dense(outputs, activation)
    return keras.Sequential([keras.Input((inputs,)), *hidden, last], name=name)


def mean_square(x: Any) -> Any:
    return ops.mean(x**2)


def softplus(x: Any) -> Any:
    return ops.mean(ops.softplus(x))


@keras.saving.register_keras_serializable("tests")
def adversarial(features, digit, domain, x, y):
    """Features that tell digits and hide domains (DANN)."""
    hidden = features(x)
    of_digit = mean_square(digit(hidden) - y)
    of_domain = softplus(domain(hidden) * (1 - 2 * y))
    return {"digit": of_digit, "domain": of_domain, "hide": -0.3 * of_domain}


@keras.saving.register_keras_serializable("tests")
def cycle(there, back, judge, judge_back, x, y):
    """Translators both ways, and judges of what they make (CycleGAN)."""
    fake_y, fake_x = there(x), back(y)
    scores, scores_back = judge(fake_y), judge_back(fake_x)
    fooling = mean_square(scores - 1) + mean_square(scores_back - 1)
    way_back = mean_square(back(fake_y) - x) + mean_square(there(fake_x) - y)
    return {
        "translate": fooling + 10 * way_back,
        "judge": mean_square(judge(y) - 1) + mean_square(scores),
        "judge_back": mean_square(judge_back(x) - 1) + mean_square(scores_back),
    }


@keras.saving.register_keras_serializable("tests")
def distillation(teacher, student, x, y):
    """A student of a teacher that stays."""
    return {"student": mean_square(student(x) - teacher(x)) + 0.1 * mean_square(student(x) - y)}


@keras.saving.register_keras_serializable("tests")
def actor_critic(actor, critic, target, x, y):
    """A critic that follows its own average, and an actor that follows the critic (DDPG)."""
    action = actor(x)
    known = critic(ops.concatenate([x, ops.stop_gradient(action)], 1))
    goal = y[:, :1] + 0.9 * target(ops.concatenate([y, actor(y)], 1))
    value = critic(ops.concatenate([x, action], 1))
    return {"critic": mean_square(known - ops.stop_gradient(goal)), "actor": -ops.mean(value)}


@keras.saving.register_keras_serializable("tests")
def quantized(encoder, book, decoder, x):
    """A code book that follows the encoder, which follows the decoder (like VQ-VAE)."""
    code = encoder(x)
    nearest = book(ops.stop_gradient(code))
    made = decoder(fg.routing.straight_through(nearest, code))
    return {
        "made": mean_square(made - x),
        "book": mean_square(nearest - ops.stop_gradient(code)),
        "commit": 0.25 * mean_square(code - ops.stop_gradient(nearest)),
    }


def make(name: str, **arguments: Any) -> fg.models.Game:
    """Make one of the games above, by the name of its function."""
    if name == "adversarial":
        networks = {
            "features": network(3, 4, "features", activation="tanh"),
            "digit": network(4, 1, "digit"),
            "domain": network(4, 1, "domain"),
        }
        reach = {"digit": ["features", "digit"], "domain": "domain", "hide": "features"}
        return fg.models.Game(networks, adversarial, reach, **arguments)
    if name == "cycle":
        networks = {
            "there": network(3, 3, "there"),
            "back": network(3, 3, "back"),
            "judge": network(3, 1, "judge"),
            "judge_back": network(3, 1, "judge_back"),
        }
        reach = {"translate": ["there", "back"], "judge": "judge", "judge_back": "judge_back"}
        return fg.models.Game(networks, cycle, reach, **arguments)
    if name == "distillation":
        teacher = network(3, 3, "teacher")
        teacher.trainable = False
        networks = {"teacher": teacher, "student": network(3, 3, "student")}
        return fg.models.Game(networks, distillation, {"student": "student"}, **arguments)
    if name == "actor_critic":
        networks = {"actor": network(3, 2, "actor"), "critic": network(5, 1, "critic")}
        averages = {"target": ("critic", 0.9)}
        return fg.models.Game(networks, actor_critic, averages=averages, **arguments)
    networks = {
        "encoder": network(3, 2, "encoder"),
        "book": network(2, 2, "book"),
        "decoder": network(2, 3, "decoder"),
    }
    reach = {"made": ["encoder", "decoder"], "book": "book", "commit": "encoder"}
    return fg.models.Game(networks, quantized, reach, **arguments)


GAMES = ["adversarial", "cycle", "distillation", "actor_critic", "quantized"]
