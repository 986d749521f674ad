"""TensorFlow reads what a step needs before the step's updates, in the optimized graph, too."""

from collections import defaultdict

import keras
import numpy as np
import pytest
from keras import layers, ops

import drawn
import finegrain as fg
from covering import chosen
from finegrain._backend import backend
from gan.games import X, networks
from routing.differentiate import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "tensorflow", reason="an optimizer of TensorFlow graphs")


def optimized_graphs(run):
    """The graphs, as they are executed, of the functions that are new in `run()`."""
    from tensorflow.python.eager import context

    context.context().enable_run_metadata()
    try:
        run()
    finally:
        metadata = context.context().export_run_metadata()
        context.context().disable_run_metadata()
    return [function.post_optimization_graph for function in metadata.function_graphs]


def ancestors(graph):
    """For each node the names of all that is executed before it, whatever the timing."""
    before = {}
    inputs = {
        node.name: [name.lstrip("^").split(":")[0] for name in node.input] for node in graph.node
    }

    def visit(name):
        if name not in before:
            before[name] = set()
            for source in inputs[name]:
                before[name] |= {source} | visit(source)
        return before[name]

    for name in inputs:
        visit(name)
    return before


def races(run):
    """Pairs of a reading and an assignment of one variable that no edge orders."""
    found, number = [], 0
    for graph in optimized_graphs(run):
        before = ancestors(graph)
        reading, assigning = defaultdict(list), defaultdict(list)
        for node in graph.node:
            if node.op == "ReadVariableOp":
                reading[node.input[0]].append(node.name)
            elif node.op.startswith("Assign") and node.op.endswith("VariableOp"):
                assigning[node.input[0]].append(node.name)
        for handle, names in assigning.items():
            for one in names:
                for other in reading[handle]:
                    number += 1
                    if other not in before[one] and one not in before[other]:
                        found.append((other, one))
    assert number > 10
    return found


class Game(keras.Model):
    """A critic that is called twice, once with its weights as constants."""

    def __init__(self, order):
        super().__init__()
        self.source = layers.Dense(2)
        self.critic = networks()[1]
        self.order = order

    def call(self, x):
        return self.source(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        calls = {
            "plain": lambda: ops.mean(ops.square(self.critic(fg.routing.stop_gradient(y_pred)))),
            "constant": lambda: ops.mean(
                ops.tanh(fg.routing.constant_weights(self.critic)(y_pred))
            ),
        }
        return sum(calls[name]() for name in self.order)


def play(order, **how):
    game = Game(order)
    game.compile(keras.optimizers.SGD(0.1), **how)
    return game.fit(X, verbose=0).history["loss"]


@pytest.mark.parametrize("order", [("constant", "plain"), ("plain", "constant")], ids="-".join)
def test_constant_weights(order, monkeypatch):
    """Alone, the graph optimizer loses the order; should it be mended one day, this shows it."""
    assert races(lambda: play(order, jit_compile=False)) == []
    monkeypatch.setattr(backend, "compute_before_updates", lambda tensors, variables: None)
    assert races(lambda: play(order, jit_compile=False))


@pytest.mark.full
def test_ways_of_running_agree():
    losses = []
    for how in ({"jit_compile": False}, {"jit_compile": True}, {"run_eagerly": True}):
        drawn.seed_keras(1)
        losses += play(("plain", "constant"), **how)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


GANS = [
    {"loss": "wasserstein"},
    {"loss": "hinge"},
    {"loss": "wasserstein", "penalties": ["wgan_gp"]},
    {"loss": "non_saturating", "penalties": ["r1"], "ema_momentum": 0.5},
    {"loss": "relativistic", "turns": True},
]


@pytest.mark.parametrize(
    "arguments", chosen(GANS, GANS[2:4]), ids=lambda chosen: " ".join(map(str, chosen.values()))
)
def test_gan(arguments):
    def train():
        gan = fg.models.GAN(*networks(), **arguments)
        gan.compile("adam", jit_compile=False)
        gan.fit(X, batch_size=8, verbose=0)

    assert races(train) == []
