"""Pins the private parts of Keras's optimizers that the library builds on.

Nothing here is about finegrain. A failure says that this release of Keras has changed a part that
`finegrain.optimizers` relies on: adapt it there first.
"""

import inspect
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops, optimizers

BACKEND = keras.backend.backend()
CLASSES = [
    optimizers.SGD,
    optimizers.RMSprop,
    optimizers.Adam,
    optimizers.AdamW,
    optimizers.Adadelta,
    optimizers.Adagrad,
    optimizers.Adamax,
    optimizers.Adafactor,
    optimizers.Nadam,
    optimizers.Ftrl,
    optimizers.Lion,
    optimizers.Lamb,
    optimizers.Muon,
    optimizers.ScheduleFreeAdamW,
]


def changed(what):
    """What a failing assertion says."""
    return (
        f"Keras {keras.__version__} has changed {what}, which finegrain.PerWeight "
        "relies on: adapt it before this release of Keras is supported."
    )


class Recorder(optimizers.Optimizer):
    """An optimizer that writes down in which order Keras calls it, and with what."""

    def __init__(self, learning_rate=0.5, **arguments):
        super().__init__(learning_rate=learning_rate, **arguments)
        # Lists of its own Keras would search for variables to track.
        self.seen = SimpleNamespace(calls=[], decayed=None, received=None)
        self.updates = self.add_variable((), name="updates")

    def _clip_gradients(self, grads):
        self.seen.calls.append("clip")
        return super()._clip_gradients(grads)

    def _apply_weight_decay(self, variables):
        self.seen.calls.append("decay")
        self.seen.decayed = list(variables)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        self.seen.calls.append("update")
        self.seen.received = (list(grads), list(trainable_variables), learning_rate)
        self.updates.assign_add(1.0)


@pytest.fixture
def weights():
    return [keras.Variable(np.ones(2, "float32"), name=name) for name in ("left", "right")]


def tensors(*rows):
    return [ops.convert_to_tensor(np.array(row, "float32")) for row in rows]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize(
    ("hook", "arguments"),
    [
        ("_backend_update_step", ["self", "grads", "trainable_variables", "learning_rate"]),
        ("_backend_apply_gradients", ["self", "grads", "trainable_variables"]),
        ("_clip_gradients", ["self", "grads"]),
        ("_overwrite_variable_with_gradient", ["self", "variable"]),
        ("_get_variable_index", ["self", "variable"]),
        ("_apply_weight_decay", ["self", "variables"]),
        ("_use_weight_decay", ["self", "variable"]),
        ("_var_key", ["self", "variable"]),
        ("_check_variables_are_known", ["self", "variables"]),
        ("_get_current_learning_rate", ["self"]),
    ],
)
def test_the_hooks_exist(cls, hook, arguments):
    """Each class has each hook under its name, with its arguments in their order."""
    found = getattr(type(cls(learning_rate=0.1)), hook, None)
    assert found is not None, changed(f"`{cls.__name__}.{hook}`: it is gone")
    assert list(inspect.signature(found).parameters) == arguments, changed(
        f"the arguments of `{cls.__name__}.{hook}`"
    )


def test_apply_clips_then_decays_then_updates(weights):
    """One real step is one call of each hook, in this order, with clipped gradients."""
    recorder = Recorder(clipvalue=0.5)
    recorder.apply(tensors([3.0, 0.25], [-3.0, 0.0]), weights)
    assert recorder.seen.calls == ["clip", "decay", "update"], changed(
        "the order of a step's parts"
    )
    assert all(map(lambda a, b: a is b, recorder.seen.decayed, weights)), changed(
        "what `_apply_weight_decay` receives"
    )
    gradients, variables, rate = recorder.seen.received
    np.testing.assert_array_equal(
        [ops.convert_to_numpy(gradient) for gradient in gradients],
        [[0.5, 0.25], [-0.5, 0.0]],
        err_msg=changed("that `_backend_update_step` receives clipped gradients"),
    )
    assert all(map(lambda a, b: a is b, variables, weights)), changed(
        "that `_backend_update_step` receives the variables"
    )
    assert float(ops.convert_to_tensor(rate)) == 0.5, changed(
        "that `_backend_update_step` receives the learning rate"
    )


def test_the_hooks_see_no_weight_without_gradient(weights):
    """Gradients that are None, and their weights, are left out before the hooks."""
    recorder = Recorder()
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        recorder.apply([None, *tensors([1.0, 1.0])], weights)
    gradients, variables, _ = recorder.seen.received
    assert len(gradients) == 1, changed("how gradients that are None are left out")
    assert variables[0] is weights[1], changed("how gradients that are None are left out")
    assert recorder.seen.decayed[0] is weights[1], changed("which weights decay without a gradient")


def test_all_of_a_step_passes_through_backend_apply_gradients(weights):
    """It sees unscaled gradients before accumulation and clipping, and it alone calls the rest."""

    class Outer(Recorder):
        def _backend_apply_gradients(self, grads, trainable_variables):
            self.seen.outer = (list(grads), list(trainable_variables))
            self.seen.calls.append("begin")
            super()._backend_apply_gradients(grads, trainable_variables)
            self.seen.calls.append("end")

    recorder = Outer(clipvalue=0.5, loss_scale_factor=2.0)
    recorder.apply(tensors([6.0, 0.25], [-6.0, 0.0]), weights)
    assert recorder.seen.calls == ["begin", "clip", "decay", "update", "end"], changed(
        "what `_backend_apply_gradients` calls"
    )
    gradients, variables = recorder.seen.outer
    np.testing.assert_array_equal(
        ops.convert_to_numpy(gradients[0]),
        [3.0, 0.125],
        err_msg=changed("what `_backend_apply_gradients` receives"),
    )
    assert variables[1] is weights[1], changed("what `_backend_apply_gradients` receives")


def test_loss_scale_is_taken_out_before_the_hooks(weights):
    """`loss_scale_factor` is the wrapper's affair: its groups have none."""
    recorder = Recorder(loss_scale_factor=4.0)
    recorder.apply(tensors([4.0, 8.0], [0.0, 0.0]), weights)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(recorder.seen.received[0][0]), [1.0, 2.0], err_msg=changed("unscaling")
    )


def test_accumulation_updates_once_with_the_mean(weights):
    """Of two steps accumulated into one, what the hook does happens once.

    On JAX the hook is called at each of them, and Keras takes what it assigned to the optimizer's
    `variables` back where there was no real step.
    """
    recorder = Recorder(gradient_accumulation_steps=2)
    for gradient in (1.0, 3.0, 5.0, 9.0):
        recorder.apply(tensors([gradient] * 2, [0.0] * 2), weights)
    assert float(recorder.updates.value) == 2, changed("when accumulation calls the hooks")
    np.testing.assert_array_equal(
        ops.convert_to_numpy(recorder.seen.received[0][0]),
        [7.0, 7.0],
        err_msg=changed("accumulation"),
    )
    assert len(recorder.seen.calls) == (12 if BACKEND == "jax" else 6), changed(
        "how often accumulation calls the hooks"
    )
    assert int(recorder._iterations) == 4, changed("`_iterations`: the number of `apply`")
    assert int(recorder.iterations) == 2, changed("`iterations`: the number of real steps")


def test_constraints_and_averages_are_outside_the_hooks():
    """They come after the update, so that groups must not do them again."""
    weight = keras.Variable(np.array([3.0, 4.0], "float32"), name="weight")
    weight.constraint = keras.constraints.NonNeg()
    recorder = Recorder(use_ema=True, ema_momentum=0.5)
    recorder._backend_update_step = lambda grads, variables, rate: weight.assign([-1.0, 2.0])
    recorder.apply(tensors([0.0, 0.0]), [weight])
    average = recorder._model_variables_moving_average
    np.testing.assert_array_equal(
        ops.convert_to_numpy(average[0].value), [-1.0, 2.0], err_msg=changed("averaging")
    )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(weight.value), [0.0, 2.0], err_msg=changed("constraints")
    )


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_hook_alone_is_the_step(cls, weights):
    """Calling the hook and counting `_iterations` is all that `apply` does to the weights."""
    by_apply, by_hook = cls(learning_rate=0.25), cls(learning_rate=lambda: 0.25)
    others = [keras.Variable(ops.copy(weight.value), name=weight.name) for weight in weights]
    by_hook.build(others)
    for gradients in ([1.0, -2.0], [0.5, 3.0]), ([0.0, 1.0], [2.0, -1.0]):
        by_apply.apply(tensors(*gradients), weights)
        by_hook._apply_weight_decay(others)
        by_hook._backend_update_step(tensors(*gradients), others, by_hook.learning_rate)
        by_hook._iterations.assign_add(1)
    for weight, other in zip(weights, others, strict=True):
        assert not np.array_equal(ops.convert_to_numpy(weight.value), [1.0, 1.0])
        np.testing.assert_array_equal(
            ops.convert_to_numpy(other.value),
            ops.convert_to_numpy(weight.value),
            err_msg=changed(f"what a step of `{cls.__name__}` is made of"),
        )


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_slots_are_lists_parallel_to_the_weights(cls, weights):
    """All that serves one weight is in lists of the weights' length; else it serves all."""
    matrix = keras.Variable(np.ones((2, 3), "float32"), name="matrix")
    optimizer = cls(learning_rate=0.1)
    members = [*weights, matrix]
    optimizer.build(members)
    listed = {
        id(slot)
        for name, slots in vars(optimizer).items()
        if isinstance(slots, list) and name not in {"_variables", "_trainable_variables"}
        for slot in slots
        if isinstance(slot, keras.Variable) and len(slots) == len(members)
    }
    for variable in optimizer.variables:
        if any(variable is own for own in vars(optimizer).values()):
            assert variable.shape == (), changed(f"the step state of `{cls.__name__}`")
        else:
            assert id(variable) in listed, changed(f"where `{cls.__name__}` keeps its slots")


def test_attributes(weights):
    """`_trainable_variables`, `_variables`, `_iterations` and `_learning_rate` are what they were.

    `variables` is a copy of `_variables` and begins with the two that every optimizer has.
    """
    optimizer = optimizers.Adam(0.25)
    assert optimizer._trainable_variables == [], changed("`_trainable_variables`")
    optimizer.build(weights)
    tracked = optimizer._trainable_variables
    assert len(tracked) == 2, changed("`_trainable_variables`")
    assert all(map(lambda a, b: a is b, tracked, weights)), changed("`_trainable_variables`")
    first, second, *slots = optimizer._variables
    assert first is optimizer._iterations, changed("`_iterations`")
    assert second is optimizer._learning_rate, changed("`_learning_rate`")
    assert len(slots) == 4, changed("`_variables`")
    assert all(map(lambda a, b: a is b, optimizer.variables, optimizer._variables)), changed(
        "`variables`"
    )


def test_added_variables_are_tracked():
    """`add_variable` puts a variable into `_variables`; assigning a list of tensors does not."""
    optimizer = optimizers.SGD(0.1)
    variable = optimizer.add_variable((), initializer=keras.initializers.Constant(3.0))
    assert optimizer._variables[-1] is variable, changed("`add_variable`")
    optimizer.holder = type("Holder", (), {"variables": [keras.Variable(1.0)]})()
    assert len(optimizer._variables) == 3, changed("what optimizers track: plain objects")


def test_var_key_tells_variables_apart(weights):
    """`_var_key` is one and the same for a variable, and another for every other."""
    left, right = weights
    optimizer = optimizers.SGD(0.1)
    assert optimizer._var_key(left) == optimizers.Adam()._var_key(left), changed("`_var_key`")
    assert optimizer._var_key(left) != optimizer._var_key(right), changed("`_var_key`")


def test_learning_rate_forms():
    """A number becomes a variable, schedules and functions stay; each has its current value."""
    optimizer = optimizers.SGD(0.25)
    assert isinstance(optimizer._learning_rate, keras.Variable), changed("`_learning_rate`")
    assert float(optimizer._get_current_learning_rate().value) == 0.25, changed(
        "`_get_current_learning_rate`"
    )
    schedule = optimizers.schedules.PiecewiseConstantDecay([1, 2], [0.5, 0.25, 0.125])
    optimizer = optimizers.SGD(schedule, gradient_accumulation_steps=2)
    assert optimizer._learning_rate is schedule, changed("`_learning_rate` as a schedule")
    optimizer._iterations.assign(2)
    assert float(optimizer._get_current_learning_rate()) == 0.25, changed(
        "that a schedule sees `_iterations`"
    )

    def rate():
        return 0.125

    optimizer = optimizers.SGD(rate)
    assert optimizer._learning_rate is rate, changed("`_learning_rate` as a function")
    assert optimizer._get_current_learning_rate() == 0.125, changed("functions as learning rates")
    assert optimizer.learning_rate == 0.125, changed("functions as learning rates")
    assert len(optimizer.variables) == 1, changed("that a function needs no variable")


def test_use_weight_decay_heeds_the_exclusions(weights):
    """`_use_weight_decay` is where exclusions count; two attributes hold them."""
    left, right = weights
    optimizer = optimizers.AdamW(weight_decay=0.1)
    assert optimizer._use_weight_decay(left), changed("`_use_weight_decay`")
    optimizer = optimizers.AdamW(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=[left])
    assert optimizer._exclude_from_weight_decay == {optimizer._var_key(left)}, changed(
        "`_exclude_from_weight_decay`"
    )
    assert not optimizer._use_weight_decay(left), changed("`_use_weight_decay`")
    assert optimizer._use_weight_decay(right), changed("`_use_weight_decay`")
    optimizer = optimizers.AdamW(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["left"])
    assert optimizer._exclude_from_weight_decay_pattern.search("left"), changed(
        "`_exclude_from_weight_decay_pattern`"
    )
    assert not optimizer._use_weight_decay(left), changed("`_use_weight_decay`")
    assert optimizer._use_weight_decay(right), changed("`_use_weight_decay`")


def test_decay_reads_the_optimizers_own_rate(weights):
    """`_apply_weight_decay` decays at the current learning rate of its own optimizer."""
    optimizer = optimizers.SGD(learning_rate=lambda: 0.5, weight_decay=0.5)
    optimizer.build(weights)
    optimizer._apply_weight_decay([weights[1]])
    np.testing.assert_array_equal(
        [ops.convert_to_numpy(weight.value) for weight in weights],
        [[1.0, 1.0], [0.75, 0.75]],
        err_msg=changed("`_apply_weight_decay`"),
    )


def test_callbacks_look_for_these_attributes():
    """`optimizers` and `inner_optimizer` mark wrappers: PerWeight must not have them."""
    sgd = optimizers.SGD()
    assert optimizers.LossScaleOptimizer(sgd).inner_optimizer is sgd, changed("`inner_optimizer`")
    multi = optimizers.MultiOptimizer(optimizers.OptimizerMap(optimizers.SGD(), {}))
    assert hasattr(multi, "optimizers"), changed("`MultiOptimizer.optimizers`")


def test_what_is_set_while_a_model_is_loaded(tmp_path, weights):
    """`ExponentiatedGradient` looks at weights when it is built, but not before they are read."""
    from keras.src.backend.common import global_state

    attribute = "shared_objects/id_to_obj_map"
    seen = []

    @keras.saving.register_keras_serializable(package="test_keras_hooks")
    class Looking(optimizers.SGD):
        def build(self, variables):
            seen.append(global_state.get_global_attribute(attribute) is not None)
            super().build(variables)

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(Looking(0.1), "mse")
    model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0)
    model.save(tmp_path / "model.keras")
    keras.models.load_model(tmp_path / "model.keras")
    assert seen[0] is False, changed(f"`{attribute}`: set where nothing is loaded")
    assert seen[-1] is True, changed(f"`{attribute}`: not set while a model is loaded")
    assert global_state.get_global_attribute(attribute) is None, changed(f"`{attribute}`")


def test_the_learning_rate_is_read_in_one_place(weights):
    """`learning_rate`, a step and weight decay all ask `_get_current_learning_rate`."""

    class Halved(Recorder):
        def _get_current_learning_rate(self):
            return 0.5 * ops.convert_to_tensor(super()._get_current_learning_rate())

    recorder = Halved(0.5, weight_decay=0.5)
    recorder.apply(tensors([1.0, 1.0], [1.0, 1.0]), weights)
    assert float(ops.convert_to_numpy(recorder.learning_rate)) == 0.25, changed("`learning_rate`")
    assert float(ops.convert_to_numpy(recorder.seen.received[2])) == 0.25, changed(
        "which learning rate `_backend_update_step` receives"
    )
    optimizers.Optimizer._apply_weight_decay(recorder, weights)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(weights[0].value),
        [0.875, 0.875],
        err_msg=changed("which learning rate weight decay takes"),
    )
    optimizers.Optimizer.learning_rate.fset(recorder, 0.25)
    assert float(ops.convert_to_numpy(recorder.learning_rate)) == 0.125, changed(
        "`learning_rate`: how it is set"
    )
