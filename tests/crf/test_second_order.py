"""Derivatives of second order, and forward mode where a backend has it, against enumeration."""

import numpy as np
import pytest
from keras import ops

import drawn
from crf.autodiff import BACKEND
from finegrain.crf import LinearChain
from oracle import EnumeratedChain

PARTS = ("emissions", "transitions", "start", "end")
MASK = np.array([[1, 1, 1], [0, 1, 1]], bool)
TAGS = np.array([[0, 1, 1], [1, 1, 0]], "int32")


def scores(per_step):
    random = drawn.generator(3)
    moves = (2, 2, 2, 2) if per_step else (2, 2)
    return [random.normal(size=size).astype("float32") for size in ((2, 3, 2), moves, 2, 2)]


def log_prob(*parts):
    chain = LinearChain(**dict(zip(PARTS, parts, strict=True)), mask=ops.convert_to_tensor(MASK))
    return ops.sum(chain.log_prob(ops.convert_to_tensor(TAGS)) * ops.convert_to_tensor([1.0, -2]))


def rows(parts):
    """The chain of each example, and what its log-probability is multiplied by."""
    emissions, moves, start, end = parts
    for i, weight in enumerate((1.0, -2.0)):
        own = moves[i] if moves.ndim == 4 else moves
        yield EnumeratedChain(emissions[i], own, start, end, MASK[i]), weight


def counted(counts, example, parts):
    """Counts of one example in the places of all scores."""
    found = [np.zeros(part.shape) for part in parts]
    found[0][example] = counts.emissions
    found[1][example if parts[1].ndim == 4 else ...] = counts.transitions
    found[2][:], found[3][:] = counts.start, counts.end
    return found


def slope(parts, directions):
    """The derivative of `log_prob` along the directions."""
    total = 0.0
    for i, (chain, weight) in enumerate(rows(parts)):
        found = counted(chain.log_prob_gradient(TAGS[i]), i, parts)
        total += weight * sum(np.sum(f * d) for f, d in zip(found, directions, strict=True))
    return total


def curvature(parts, directions):
    """The Hessian of `log_prob` times the directions: covariances of counts, with a minus."""
    total = [np.zeros(part.shape) for part in parts]
    for i, (chain, weight) in enumerate(rows(parts)):
        share = np.exp(chain.scores - chain.log_partition())
        uses = [counted(chain._counts(s), i, parts) for s in chain.sequences]
        along = [sum(np.sum(u * d) for u, d in zip(use, directions, strict=True)) for use in uses]
        for part, sum_ in enumerate(total):
            each = np.array([use[part] for use in uses])
            mean = np.tensordot(share, each, 1)
            sum_ -= weight * np.tensordot(share * along, each - mean, 1)
    return total


@pytest.fixture(params=[False, True], ids=["shared", "per_step"])
def parts(request):
    return scores(request.param)


@pytest.fixture
def directions(parts):
    random = drawn.generator(4)
    return [random.normal(size=part.shape).astype("float32") for part in parts]


def test_hessian(parts, directions):
    """The gradient of a gradient's product with any directions."""
    if BACKEND == "jax":
        import jax

        every = tuple(range(len(parts)))

        def along(*parts):
            gradient = jax.grad(log_prob, every)(*parts)
            return sum(ops.sum(g * d) for g, d in zip(gradient, directions, strict=True))

        found = jax.jit(jax.grad(along, every))(*parts)
    elif BACKEND == "torch":
        import torch

        sources = [torch.tensor(part, requires_grad=True) for part in parts]
        gradient = torch.autograd.grad(log_prob(*sources), sources, create_graph=True)
        found = torch.autograd.grad(
            gradient, sources, [torch.tensor(direction) for direction in directions]
        )
    else:
        import tensorflow as tf

        sources = [tf.constant(part) for part in parts]
        with tf.GradientTape() as outer:
            outer.watch(sources)
            with tf.GradientTape() as inner:
                inner.watch(sources)
                value = log_prob(*sources)
            gradient = inner.gradient(value, sources)
        found = outer.gradient(gradient, sources, output_gradients=directions)
    for name, ours, theirs in zip(PARTS, found, curvature(parts, directions), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(ours), theirs, atol=2e-5, err_msg=name)


def weighted_marginals(parts, weights):
    emissions, *shared = parts
    chain = LinearChain(
        emissions, **dict(zip(PARTS[1:], shared, strict=True)), mask=ops.convert_to_tensor(MASK)
    )
    return ops.sum(chain.marginals() * weights)


@pytest.mark.selected("shared")
def test_gradient_of_marginals(parts, directions):
    """Marginals are a gradient themselves: theirs is a product with a Hessian."""
    weights = directions[0] * np.array([1, -2], "float32")[:, None, None]
    if BACKEND == "jax":
        import jax

        found = jax.jit(jax.grad(weighted_marginals))(parts, weights)
    elif BACKEND == "torch":
        import torch

        sources = [torch.tensor(part, requires_grad=True) for part in parts]
        value = weighted_marginals(sources, torch.tensor(weights))
        found = torch.autograd.grad(value, sources)
    else:
        import tensorflow as tf

        sources = [tf.constant(part) for part in parts]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            value = weighted_marginals(sources, weights)
        found = tape.gradient(value, sources)
    expected = curvature(parts, [directions[0], *(np.zeros_like(x) for x in directions[1:])])
    for name, ours, theirs in zip(PARTS, found, expected, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(ours), -theirs, atol=2e-5, err_msg=name)


@pytest.mark.selected("shared")
def test_forward_mode(parts, directions):
    """The value, and its derivative along any directions, in one pass."""
    if BACKEND == "jax":
        import jax

        _, found = jax.jit(lambda p, d: jax.jvp(log_prob, p, d))(tuple(parts), tuple(directions))
    elif BACKEND == "torch":
        import torch

        primals, tangents = (tuple(map(torch.tensor, x)) for x in (parts, directions))
        _, found = torch.func.jvp(log_prob, primals, tangents)
    else:
        import tensorflow as tf

        sources = [tf.constant(part) for part in parts]
        with tf.autodiff.ForwardAccumulator(sources, list(map(tf.constant, directions))) as forward:
            value = log_prob(*sources)
        found = forward.jvp(value)
    np.testing.assert_allclose(ops.convert_to_numpy(found), slope(parts, directions), atol=2e-5)


@pytest.mark.full
@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow transforms no functions")
def test_forward_over_reverse(parts, directions):
    """What `jax.hessian` and `torch.func.hessian` do: a derivative along the way of a gradient."""
    every = tuple(range(len(parts)))
    if BACKEND == "jax":
        import jax

        gradient = jax.grad(log_prob, every)
        _, found = jax.jit(lambda p, d: jax.jvp(gradient, p, d))(tuple(parts), tuple(directions))
    else:
        import torch

        primals, tangents = (tuple(map(torch.tensor, x)) for x in (parts, directions))
        _, found = torch.func.jvp(torch.func.grad(log_prob, every), primals, tangents)
    for name, ours, theirs in zip(PARTS, found, curvature(parts, directions), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(ours), theirs, atol=2e-5, err_msg=name)
