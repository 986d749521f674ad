"""Weights that join others on a resume: they begin as new ones.

An optimizer's slots of zero beside a step count that takes them for old would make the first steps
several times too large, since nothing corrects their bias.
"""

import keras
import numpy as np
import pytest
from keras import layers, optimizers

import finegrain as fg
from covering import chosen
from optimizers.contract import (
    OPTIMIZERS,
    apply,
    assert_bit_equal,
    assert_moved,
    compiled,
    fill,
    mlp,
    push,
    random_gradients,
    rule,
    state,
    train,
    values,
    variables,
)
from optimizers.warned import warned

BACKEND = keras.backend.backend()

HELD = [fg.Rule("encoder", trainable=False)]


def loaded(optimizer, stored, warns=None):
    """`mlp()` under `optimizer`, which has read `stored`, with a warning of `warns`."""
    model = compiled(optimizer)
    model.optimizer.build(model.trainable_variables)
    with warned(*([] if warns is None else [warns])):
        model.optimizer.load_own_variables(stored)
    return model


def head_only(optimizer):
    """An `mlp()` of which the encoder is not trained."""
    model = mlp()
    model.get_layer("encoder").trainable = False
    return compiled(optimizer, model)


@pytest.mark.parametrize("name", chosen(OPTIMIZERS, ["adam", "nadam", "adax"]))
def test_held_and_then_free(name):
    """Each part goes on as under an optimizer of its own, to the last bit."""
    model = push(compiled(fg.PerWeight(OPTIMIZERS[name](), HELD)), 3)
    free = loaded(fg.PerWeight(OPTIMIZERS[name]()), state(model.optimizer))
    free.set_weights(model.get_weights())
    encoder, head, alone = OPTIMIZERS[name](), OPTIMIZERS[name](), mlp()
    for gradients in random_gradients(alone.weights, 3):
        head.apply(gradients[2:], alone.weights[2:])
    for gradients in random_gradients(alone.weights, 3):
        free.optimizer.apply(gradients, free.weights)
        encoder.apply(gradients[:2], alone.weights[:2])
        head.apply(gradients[2:], alone.weights[2:])
    assert_moved(free)
    assert_bit_equal(free, alone)
    assert int(free.optimizer.iterations) == 6
    counts = state(free.optimizer)
    assert counts["encoder|kernel:step:iterations"] == 3
    assert counts["head|kernel:step:iterations"] == 6


@pytest.mark.parametrize("name", ["adam", "adax"])
def test_frozen_by_its_layer_and_then_free(name):
    """Weights that the file knows nothing of begin likewise, with a warning that names them."""
    model = push(head_only(fg.PerWeight(OPTIMIZERS[name]())), 20)
    names = r"begin as new ones: \['encoder/kernel"
    free = loaded(fg.PerWeight(OPTIMIZERS[name]()), state(model.optimizer), names)
    start = values(free.weights)
    push(free, 1)
    new = push(compiled(OPTIMIZERS[name]()), 1)
    for mine, theirs in zip(values(free.weights)[:2], values(new.weights)[:2], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    # Those that go on do not begin anew.
    moved = [np.abs(a - b).max() for a, b in zip(start, values(free.weights), strict=True)]
    assert moved[2] != np.abs(start[2] - values(new.weights)[2]).max()


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "compiled"])
def test_through_a_file_and_fit(jit, tmp_path):
    """The first steps of what was held are at most the learning rate, as plain Adam's are."""
    held = compiled(fg.PerWeight(optimizers.Adam(1e-3), HELD), jit=jit)
    train(held, epochs=3)
    held.save_weights(tmp_path / "model.weights.h5")
    free = compiled(fg.PerWeight(optimizers.Adam(1e-3)), jit=jit)
    free.optimizer.build(free.weights)
    free.load_weights(tmp_path / "model.weights.h5")
    before = values(free.weights)
    train(free)
    steps = np.abs(values(free.weights)[0] - before[0]).max() / 4
    assert 0.1e-3 < steps < 1.05e-3


def test_a_file_of_what_has_learned_for_different_times():
    """Weights of one rule and several counts are saved and go on as they are."""
    model = push(compiled(fg.PerWeight(OPTIMIZERS["adam"](), HELD)), 3)
    free = push(loaded(fg.PerWeight(OPTIMIZERS["adam"]()), state(model.optimizer)), 2)
    again = loaded(fg.PerWeight(OPTIMIZERS["adam"]()), state(free.optimizer))
    again.set_weights(free.get_weights())
    assert_bit_equal(push(again), push(free))
    assert len(again.optimizer._partition.groups) == 2


def test_another_optimizer_in_the_file():
    """Slots that are not the optimizer's own are no slots: its weights begin as new ones."""
    model = push(compiled(fg.PerWeight(optimizers.SGD(0.1, momentum=0.9))), 20)
    other = loaded(fg.PerWeight(optimizers.Adam(0.1)), state(model.optimizer), "begin as new ones")
    assert_bit_equal(push(other), push(compiled(optimizers.Adam(0.1))))
    sgd = fg.PerWeight(optimizers.SGD(0.1, momentum=0.9))
    back = loaded(sgd, state(other.optimizer), "begin as new ones")
    assert_bit_equal(push(back), push(compiled(optimizers.SGD(0.1, momentum=0.9))))


def test_loaded_into_an_optimizer_that_has_learned():
    """What the file lacks keeps its own slots and its own count."""
    file = state(push(head_only(fg.PerWeight(OPTIMIZERS["adam"]())), 7).optimizer)
    model = push(compiled(fg.PerWeight(OPTIMIZERS["adam"]())), 3)
    before = state(model.optimizer)
    with warned("encoder/kernel"):
        model.optimizer.load_own_variables(file)
    after = state(model.optimizer)
    for key, value in after.items():
        if key.startswith("encoder|"):
            np.testing.assert_array_equal(value, before[key], err_msg=key)
        elif key.startswith("head|") and not key.endswith(":place"):
            np.testing.assert_array_equal(value, file[key], err_msg=key)


def test_averages_of_new_weights():
    """The average of a weight that is new is the weight, not a share of it."""
    averaged = {"use_ema": True, "ema_momentum": 0.9}
    file = state(push(head_only(fg.PerWeight(optimizers.SGD(0.1, **averaged))), 5).optimizer)
    model = loaded(fg.PerWeight(optimizers.SGD(0.1, **averaged)), file, "begin as new ones")
    model.optimizer.learning_rate = 0.0
    start = values(model.weights)
    push(model, 2)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    for before, now in zip(start[:2], values(model.weights)[:2], strict=True):
        np.testing.assert_allclose(now, before, rtol=1e-6)


def test_under_names_that_keras_counts():
    """A model built again, of which more is trained, finds the slots of what it had."""

    def model(frozen):
        hidden = layers.Dense(4)
        hidden.trainable = not frozen
        made = keras.Sequential([keras.Input((3,)), hidden, layers.Dense(2)])
        fill(made)
        return compiled(fg.PerWeight(OPTIMIZERS["adam"]()), made)

    file = state(push(model(frozen=True), 3).optimizer)
    other = model(frozen=False)
    other.optimizer.build(other.trainable_variables)
    with warned("lacks 6 of 14"):
        other.optimizer.load_own_variables(file)
    mine = state(other.optimizer)
    slots = [(k.rpartition("|")[2], v) for k, v in file.items() if k.endswith(("ums", "ties"))]
    for slot, value in slots:
        found = [v for k, v in mine.items() if k.endswith(f"|{slot}") and v.shape == value.shape]
        assert any(np.array_equal(v, value) for v in found), slot
    counts = [int(v) for k, v in mine.items() if k.endswith("step:iterations")]
    assert sorted(counts) == [0, 0, 3, 3]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow keeps the graph of a step")
def test_other_groups_than_the_graph_knows():
    """What was traced cannot learn of them: a warning says what to do."""
    file = state(push(compiled(fg.PerWeight(OPTIMIZERS["adam"](), HELD)), 3).optimizer)
    model = compiled(fg.PerWeight(OPTIMIZERS["adam"]()), jit=True)
    train(model)
    with warned(r"model\.compile\(model\.optimizer"):
        model.optimizer.load_own_variables(file)
    model.compile(model.optimizer, "mse", jit_compile=True)
    train(model)
    assert state(model.optimizer)["encoder|kernel:step:iterations"] == 4


def test_learned_step_sizes_join():
    """So it is with optimizers that learn one number for all weights of a group."""

    def make(rules):
        return fg.PerWeight(fg.optimizers.AdaptiveStepSize(optimizers.SGD(0.1)), rules)

    weights = variables(encoder=[1.0, 2.0], head=[3.0])
    optimizer = make(HELD)
    for _ in range(4):
        apply(optimizer, weights, [[1.0, 1.0], [1.0]])
    free = make([rule(".", 2.0)])
    free.build(weights)
    free.load_own_variables(state(optimizer))
    mine, file = state(free), state(optimizer)
    keys = [key for key in file if key.startswith(("encoder:", "head:"))]
    for key in keys:
        np.testing.assert_array_equal(mine[key], file[key], err_msg=key)
