"""Arithmetic on lists of tensors: against NumPy, and torch's own form against the neutral one."""

import keras
import numpy as np
import pytest
from keras import ops, optimizers

import drawn
from finegrain._backend import backend
from finegrain._backend import lists as neutral
from finegrain.optimizers import AdaptiveStepSize, ProductGains, Scale, SignGains
from optimizers.contract import mlp, random_gradients, values

BACKEND = keras.backend.backend()
FORMS = {"neutral": neutral, "own": backend.lists}
every_form = pytest.mark.parametrize("lists", FORMS.values(), ids=FORMS)
SHAPES = [(), (3,), (2, 4)]


def arrays(seed, dtype="float32"):
    random = drawn.generator(seed)
    return [np.asarray(random.normal(size=shape), dtype) for shape in SHAPES]


def tensors(of):
    return [ops.convert_to_tensor(x) for x in of]


def held(of, dtype="float32"):
    return [keras.Variable(x, dtype=dtype, name=f"v{n}") for n, x in enumerate(of)]


def assert_are(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(mine), theirs, rtol=2e-6, atol=1e-6)


@every_form
def test_functions_of_tensors(lists):
    a, b = arrays(0), arrays(1)
    x, y = tensors(a), tensors(b)
    for found, function in [
        (lists.sums(x, y), lambda p, q: p + q),
        (lists.differences(x, y), lambda p, q: p - q),
        (lists.products(x, y), lambda p, q: p * q),
        (lists.multiples(x, 0.5), lambda p, _: 0.5 * p),
        (lists.multiples(x, ops.convert_to_tensor(0.5)), lambda p, _: 0.5 * p),
        (lists.clipped(x, 0.3), lambda p, _: p.clip(-0.3, 0.3)),
        (lists.exponentials(x), lambda p, _: np.exp(p)),
        (lists.signs(x), lambda p, _: np.sign(p)),
    ]:
        assert_are(found, [function(p, q) for p, q in zip(a, b, strict=True)])
    assert_are(x, a)


@every_form
def test_scalars_over_all_tensors(lists):
    a, b = arrays(0), arrays(1)
    every, other = (np.concatenate([x.ravel() for x in of]) for of in (a, b))
    x, y = tensors(a), tensors(b)
    found = [lists.total(x), lists.dot(x, y), lists.norm(x)]
    assert_are(found, [every.sum(), every @ other, np.linalg.norm(every)])
    assert {keras.backend.standardize_dtype(s.dtype) for s in found} == {"float32"}
    assert {tuple(s.shape) for s in found} == {()}


@every_form
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_variables(lists, dtype):
    """Copies stay; values are precise; assigning keeps the dtype."""
    a = arrays(2)
    variables = held(a, dtype)
    before = lists.copies(variables)
    with lists.untracked():
        lists.assign(variables, [2 * x for x in lists.values(variables)])
    for kept, now, variable in zip(before, lists.values(variables), variables, strict=True):
        assert {keras.backend.standardize_dtype(x.dtype) for x in (kept, now)} == {"float32"}
        assert keras.backend.standardize_dtype(variable.value.dtype) == dtype
        np.testing.assert_array_equal(ops.convert_to_numpy(now), 2 * ops.convert_to_numpy(kept))
    low = [ops.cast(x, dtype) for x in tensors(a)]
    assert_are(lists.like(low, before), [ops.convert_to_numpy(x) for x in before])


@every_form
@pytest.mark.parametrize("keep", [1.0, 0.25])
def test_blend(lists, keep):
    a, b = arrays(3), arrays(4)
    variables = held(a)
    with lists.untracked():
        lists.blend(variables, tensors(b), keep, 0.5)
    assert_are(values(variables), [keep * x + 0.5 * y for x, y in zip(a, b, strict=True)])


@every_form
@pytest.mark.parametrize("keep", [0.25, "tensor"])
def test_accumulate(lists, keep):
    a, b = arrays(3), arrays(4)
    variables = held(a)
    with lists.untracked():
        share = ops.convert_to_tensor(0.25) if keep == "tensor" else keep
        lists.accumulate(variables, tensors(b), share)
    assert_are(values(variables), [0.25 * (x + y) for x, y in zip(a, b, strict=True)])


@pytest.mark.skipif(BACKEND != "torch", reason="only torch has a form of its own")
@pytest.mark.parametrize("rule", [Scale(), ProductGains(), SignGains()], ids=repr)
def test_step_sizes_are_those_of_the_neutral_form(rule, monkeypatch):
    """Over 30 steps, with weight decay."""
    models = [mlp(), mlp()]
    fast, plain = (AdaptiveStepSize(optimizers.AdamW(0.01, weight_decay=0.1), rule) for _ in models)
    own = backend.lists
    for gradients in random_gradients(models[0].weights, 30):
        for optimizer, model, lists in zip((fast, plain), models, (own, neutral), strict=True):
            monkeypatch.setattr(backend, "lists", lists)
            optimizer.apply(gradients, model.weights)
    for one, other in zip(
        values([*models[0].weights, *fast.variables]),
        values([*models[1].weights, *plain.variables]),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
