"""What holds for every gradient transform of the table."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import drawn
import finegrain as fg
from compiling import JIT
from covering import chosen, covering
from finegrain import gradients
from finegrain.gradients import GradientTransform
from gradients.contract import (
    TRANSFORMS,
    add_weights,
    applied,
    array,
    arrays,
    as_variables,
)

BACKEND = keras.backend.backend()


def transforms_from(turn):
    """Every transform; in the selection those of a turn: each has some of these tests."""
    return pytest.mark.parametrize("name", chosen(TRANSFORMS, list(TRANSFORMS)[turn::4]))


RANDOM = drawn.generator(3)
FEW = [(4, 3), (3,)]
SOME = [(), (3,), (2, 4, 3)]
X = RANDOM.normal(size=(12, 3)).astype("float32")
Y = RANDOM.normal(size=(12, 2)).astype("float32")


def mlp():
    """Two dense layers, `encoder` and `head`."""
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, activation="tanh", name="encoder")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))


def towers():
    """A dense layer for each transform of the table, side by side: one compilation for them all."""
    inputs = keras.Input((3,))
    outputs = [keras.layers.Dense(2, name=name)(inputs) for name in TRANSFORMS]
    model = keras.Model(inputs, keras.layers.Add(name="sum")(outputs))
    random = drawn.generator(11)
    model.set_weights([random.normal(size=w.shape).astype("float32") for w in model.get_weights()])
    return model


def compiled_towers(*, jit=True, without=()):
    """Each layer under its transform, but for those of some names."""
    model = towers()
    rules = [
        fg.Rule(f"^{name}/", gradient=make())
        for name, make in TRANSFORMS.items()
        if name not in without
    ]
    optimizer = fg.PerWeight(keras.optimizers.SGD(0.01, momentum=0.5), rules)
    how = {"jit_compile": JIT} if jit else {"run_eagerly": True}
    model.compile(optimizer, "mse", **how)
    return model


def train(model):
    """Three steps, the same at every call."""
    model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    return model


def values(variables):
    return [np.array(ops.convert_to_numpy(variable.value)) for variable in variables]


def assert_same(variables, others):
    """All values agree to the last bit."""
    for mine, theirs in zip(values(variables), values(others), strict=True):
        np.testing.assert_array_equal(mine, theirs, strict=True)


def test_the_table_has_every_transform():
    """A public transform that is not in the table would go untested."""
    found = (getattr(gradients, name) for name in gradients.__all__)
    public = {kind for kind in found if issubclass(kind, GradientTransform)} - {GradientTransform}
    assert public <= {type(make()) for make in TRANSFORMS.values()}


@pytest.mark.one_backend
@pytest.mark.parametrize("name", TRANSFORMS)
def test_config_round_trip(name):
    """A transform made from the config, by way of JSON, is its like and does the same."""
    transform = TRANSFORMS[name]()
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(transform)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(transform)
    assert again.get_config() == transform.get_config()
    assert (again.label, repr(again)) == (transform.label, transform.label)
    given, weights = arrays(1, FEW), arrays(2, FEW)
    for mine, theirs in zip(
        applied(again, given, weights), applied(transform, given, weights), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs, strict=True)


@transforms_from(0)
def test_it_does_something(name):
    """Each transform of the table changes gradients, or the tests here would show nothing."""
    given = arrays(1, FEW)
    results = applied(TRANSFORMS[name](), given, arrays(2, FEW), steps=2)
    assert not all(map(np.array_equal, results, given))


@pytest.mark.selected(
    "clip_norm_1-float16",
    "adaptive_clip-bfloat16",
    "normalize-bfloat16",
    "dropout-float16",
    "momentum-float32",
)
@pytest.mark.parametrize(
    ("name", "dtype"), covering(TRANSFORMS, ["float32", "float16", "bfloat16"])
)
def test_shapes_and_dtypes_are_kept(name, dtype):
    """Gradients of every rank keep shape and dtype, and near the values of float32."""
    given, weights = arrays(1, SOME), arrays(2, SOME)
    variables = as_variables(weights, dtype)
    # To numbers that each dtype holds.
    given = [array(ops.cast(ops.convert_to_tensor(g), dtype)) for g in given]
    weights = [array(variable) for variable in variables]
    transform = TRANSFORMS[name]().bound_to(variables)
    handed = [ops.cast(ops.convert_to_tensor(g), dtype) for g in given]
    results = transform(handed, variables)
    # What was handed in is left alone.
    for mine, theirs in zip([*handed, *variables], [*given, *weights], strict=True):
        np.testing.assert_array_equal(array(mine), theirs)
    assert len(results) == len(SOME)
    for result, shape in zip(results, SOME, strict=True):
        assert tuple(result.shape) == shape
        assert keras.backend.standardize_dtype(result.dtype) == dtype
        assert np.isfinite(array(result)).all()
    if name not in ("noise", "dropout"):
        precision = {"float32": 1e-6, "float16": 3e-3, "bfloat16": 3e-2}[dtype]
        expected = applied(TRANSFORMS[name](), given, weights)
        for result, reference in zip(results, expected, strict=True):
            np.testing.assert_allclose(array(result), reference, precision, precision)


@pytest.mark.full
def test_compiled_fit_saved_and_resumed(tmp_path):
    """Compiled steps do what steps in Python do, up to rounding.

    A model loaded from a file goes on in `fit` as the one that wrote it, to the last bit.
    """
    model = train(compiled_towers())
    before = values(model.weights)
    # XLA draws other numbers of a seed than TensorFlow itself, and all layers share one loss.
    drawn_there = ("noise", "dropout") if BACKEND == "tensorflow" else ()
    fast = train(compiled_towers(without=drawn_there)) if drawn_there else model
    slow = train(compiled_towers(jit=False, without=drawn_there))
    for mine, theirs in zip(values(fast.weights), slow.weights, strict=True):
        np.testing.assert_allclose(mine, array(theirs), 1e-2, 1e-3, err_msg=theirs.path)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(loaded.optimizer.variables, model.optimizer.variables)
    assert_same(train(loaded).weights, train(model).weights)
    assert_same(loaded.optimizer.variables, model.optimizer.variables)
    for earlier, later in [(values(towers().weights), before), (before, values(model.weights))]:
        for weight, *pair in zip(model.weights, earlier, later, strict=True):
            assert np.array_equal(*pair) == weight.path.startswith("zero/"), weight.path


@pytest.mark.one_backend
@pytest.mark.parametrize("name", TRANSFORMS)
def test_describe_shows_the_label(name):
    """The label of each transform, in order, and of no other weight's."""
    transform = TRANSFORMS[name]()
    optimizer = fg.PerWeight("sgd", [fg.Rule("head", gradient=[transform, fg.gradients.Sign()])])
    for _ in ("before", "after"):
        rows = optimizer.describe(mlp()).to_dicts()
        assert [row["gradient"] for row in rows] == [()] * 2 + [(transform.label, "Sign()")] * 2
        optimizer.build(mlp().trainable_variables)


@transforms_from(1)
def test_gradients_come_unscaled(name):
    """Under loss scaling the transform sees the gradients at their true size."""
    plain, scaled = as_variables(arrays(2, FEW)), as_variables(arrays(2, FEW))
    given = [ops.convert_to_tensor(gradient) for gradient in arrays(1, FEW)]
    for scale, variables in [(None, plain), (1024.0, scaled)]:
        sgd = keras.optimizers.SGD(0.5, loss_scale_factor=scale)
        optimizer = fg.PerWeight(sgd, [fg.Rule(".", gradient=TRANSFORMS[name]())])
        for _ in range(2):
            optimizer.apply([(scale or 1.0) * gradient for gradient in given], variables)
    assert_same(scaled, plain)


@transforms_from(2)
def test_transforms_run_once_in_each_real_step(name):
    """With accumulation over two steps: two equal gradients are one step with that gradient."""
    weights = [as_variables(arrays(2, FEW)) for _ in range(2)]
    given = arrays(1, FEW)
    optimizers = [
        fg.PerWeight(
            keras.optimizers.SGD(0.5, gradient_accumulation_steps=steps),
            [fg.Rule(".", gradient=TRANSFORMS[name]())],
        )
        for steps in (None, 2)
    ]
    for optimizer, variables, repeats in zip(optimizers, weights, (2, 4), strict=True):
        for _ in range(repeats):
            optimizer.apply([ops.convert_to_tensor(gradient) for gradient in given], variables)
    for mine, theirs in zip(*map(values, weights), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6)
    own = [
        [v for *_, t in optimizer._partition.transforms for _, v, _ in t.state]
        for optimizer in optimizers
    ]
    # Counts and seeds, too, have advanced by two steps only.
    assert_same(*own)


@pytest.mark.parametrize(
    ("name", "held_by"),
    covering(TRANSFORMS, [{"trainable": False}, {"learning_rate_multiplier": 0.0}]),
)
def test_held_weights_stay_out_of_the_global_norm(name, held_by):
    """Whatever is done to the gradient of a weight that is held, the others see nothing of it."""
    moves, held = as_variables([np.zeros(2), np.ones(2)])
    rules = [fg.Rule("w1", gradient=TRANSFORMS[name](), **held_by)]
    optimizer = fg.PerWeight(keras.optimizers.SGD(1.0, global_clipnorm=1.0), rules)
    given = np.array([3.0, 4.0], "float32")
    optimizer.apply([ops.convert_to_tensor(given)] * 2, [moves, held])
    np.testing.assert_allclose(array(moves), [-0.6, -0.8], rtol=1e-6)
    np.testing.assert_array_equal(array(held), [1.0, 1.0])


@transforms_from(3)
def test_one_instance_serves_several_rules_and_optimizers(name):
    """Each use has a state of its own: another use of the same object changes nothing."""
    transform = TRANSFORMS[name]()
    alone, first, second = (as_variables(arrays(2, FEW)) for _ in range(3))
    given = [ops.convert_to_tensor(gradient) for gradient in arrays(1, FEW)]
    single = fg.PerWeight(keras.optimizers.SGD(0.5), [fg.Rule("w0", gradient=TRANSFORMS[name]())])
    shared = [
        fg.PerWeight(
            keras.optimizers.SGD(0.5),
            [fg.Rule("w0", gradient=transform), fg.Rule("w1", gradient=transform)],
        )
        for _ in range(2)
    ]
    for _ in range(3):
        single.apply(given, alone)
        for optimizer, variables in zip(shared, (first, second), strict=True):
            optimizer.apply(given, variables)
    for variables in (first, second):
        np.testing.assert_array_equal(array(variables[0]), array(alone[0]))
    assert transform.state == []


@transforms_from(0)
def test_weights_without_gradient(name):
    """A weight that has no gradient in a step is left out of it, and the others go on."""
    variables = as_variables(arrays(2, [(4, 3), (3,), (4, 3)]))
    before = values(variables)
    optimizer = fg.PerWeight(keras.optimizers.SGD(0.5), [fg.Rule(".", gradient=TRANSFORMS[name]())])
    optimizer.build(variables)
    given = [ops.convert_to_tensor(gradient) for gradient in arrays(1, [(4, 3), (3,), (4, 3)])]
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([given[0], None, given[2]], variables)
    changed = [not np.array_equal(*pair) for pair in zip(before, values(variables), strict=True)]
    assert changed == [name != "zero", False, name != "zero"]


@pytest.mark.parametrize("seed", [1, None])
def test_functions_in_rules_are_registered_ones(seed):
    """A plain callable in a rule is a `Function`, with its config."""
    rule = fg.Rule("w", gradient=[add_weights, fg.gradients.Noise(0.5, seed=seed)])
    again = fg.Rule.from_config(json.loads(json.dumps(rule.get_config())))
    assert again.gradient[0].fn is add_weights
    assert again.gradient[1].seed == seed
