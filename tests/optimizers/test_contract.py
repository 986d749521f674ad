"""What holds for PerWeight round every optimizer of the table."""

import json

import keras
import numpy as np
import pytest

import finegrain as fg
from covering import chosen, covering
from optimizers.contract import (
    LEARNING_RATE,
    OPTIMIZERS,
    WITHOUT_WEIGHT_DECAY,
    X,
    Y,
    assert_bit_equal,
    assert_moved,
    compiled,
    groups,
    mlp,
    push,
    random_gradients,
    state,
    train,
    values,
)

LIBRARY = ["adaptive_moments", "adax", "exponentiated_gradient", "adaptive_step_size"]
# Where each is compiled, some stand for all: with other slots, another step state, or a division by
# the rate.
COMPILED = ["adam", "adaptive_step_size"]


def optimizers_from(turn):
    """Every optimizer; in the selection those of a turn: each has some of these tests."""
    turns = [*list(OPTIMIZERS)[turn::6], *LIBRARY[turn % 2 :: 2]]
    return pytest.mark.parametrize("name", chosen(OPTIMIZERS, turns))


def clipped_accumulated_averaged():
    """Arguments that belong to all weights together."""
    return {
        "global_clipnorm": 0.5,
        "gradient_accumulation_steps": 2,
        "use_ema": True,
        "ema_momentum": 0.9,
    }


def that_lead_away(name):
    """Arguments of steps that cannot lead back: Lion's, all of one size, might cancel out."""
    if name != "lion":
        return {}
    return {"learning_rate": keras.optimizers.schedules.ExponentialDecay(LEARNING_RATE, 1, 0.7)}


def scheduled_and_decayed():
    """A schedule as base rate, and weight decay, which follows the rate of each group."""
    schedule = keras.optimizers.schedules.ExponentialDecay(LEARNING_RATE, 2, 0.5)
    return {"learning_rate": schedule, "weight_decay": 0.1}


def assert_as_equal_as_compiled(model, other):
    """Operations run one by one agree to the last bit, compiled ones up to rounding."""
    if keras.backend.backend() == "torch":
        assert_bit_equal(model, other)
    for mine, theirs in zip(values(model.weights), values(other.weights), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def assert_like_plain(name, **arguments):
    """Three groups of multiplier 1 learn as the optimizer alone does, through compiled `fit`."""
    plain = train(compiled(OPTIMIZERS[name](**arguments), jit=True))
    grouped = train(compiled(fg.PerWeight(OPTIMIZERS[name](**arguments), groups()), jit=True))
    assert len(grouped.optimizer._partition.groups) == 3
    assert_moved(plain)
    assert_as_equal_as_compiled(grouped, plain)


@pytest.mark.parametrize("name", chosen(OPTIMIZERS, COMPILED))
def test_multiplier_one_is_nothing(name):
    """Groups of multiplier 1 change nothing."""
    assert_like_plain(name, **that_lead_away(name))


VARIANTS = {
    "clipnorm": {"clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.3},
    "global_clipnorm": {"global_clipnorm": 0.5},
    "accumulation": {"gradient_accumulation_steps": 2},
    "ema": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 2},
    "schedule": {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.5)},
    "weight_decay": {"weight_decay": 0.1},
    "mixed_float16": {},
    "constraints": {},
}


def apply(optimizer, gradients, weights):
    """One step; on JAX in the stateless form, as loss scaling knows no other there."""
    if keras.backend.backend() != "jax":
        optimizer.apply(gradients, weights)
        return
    if not optimizer.built:
        optimizer.build(weights)
    held = [*weights, *optimizer.variables]
    new = optimizer.stateless_apply(
        [variable.value for variable in optimizer.variables],
        gradients,
        [weight.value for weight in weights],
    )
    for variable, value in zip(held, [*new[0], *new[1]], strict=True):
        variable.assign(value)


def stepped(optimizer, variant):
    """The weights after four steps of `optimizer`, and its averages."""
    model = mlp()
    if variant == "constraints":
        for layer in model.layers[1:]:
            layer.kernel.constraint = keras.constraints.UnitNorm()
    if variant == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
    for gradients in random_gradients(model.weights, steps=4):
        if variant == "mixed_float16":
            gradients = [8.0 * gradient for gradient in gradients]
        apply(optimizer, gradients, model.weights)
    seen = values(model.weights)
    optimizer.finalize_variable_values(model.weights)
    return [*seen, *values(model.weights)]


@pytest.mark.parametrize(("name", "variant"), covering(OPTIMIZERS, VARIANTS))
def test_each_variant_is_bit_equal(name, variant):
    """Three groups of multiplier 1 do, step by step, just what the optimizer alone does."""
    if variant == "weight_decay" and name in WITHOUT_WEIGHT_DECAY | {"adaptive_step_size"}:
        pytest.skip("it takes none, or decays its weights at the mean of their step sizes")
    if variant == "ema" and name == "extragradient":
        pytest.skip("PerWeight averages the points looked ahead to as well")
    arguments = VARIANTS[variant]
    plain = stepped(OPTIMIZERS[name](**arguments), variant)
    grouped = stepped(fg.PerWeight(OPTIMIZERS[name](**arguments), groups()), variant)
    for mine, theirs in zip(grouped, plain, strict=True):
        assert np.isfinite(theirs).all()
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.full
@pytest.mark.parametrize("name", chosen(["sgd_momentum", "adam", "adafactor"], ["adam"]))
def test_multiplier_one_is_nothing_with_what_belongs_to_all(name):
    """Clipping over the global norm, accumulation and averaging stay those of the whole."""
    assert_like_plain(name, **clipped_accumulated_averaged())


@pytest.mark.full
@pytest.mark.parametrize("name", chosen(["sgd", "adamw", "muon"], ["adamw"]))
def test_multiplier_one_is_nothing_under_a_schedule_with_weight_decay(name):
    """A schedule is read and weights decay as they do without groups."""
    assert_like_plain(name, **scheduled_and_decayed())


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="only TensorFlow has graphs without XLA"
)
@pytest.mark.parametrize("name", ["adam", "adagrad"])
def test_multiplier_one_in_a_graph_without_xla(name):
    """There TensorFlow's graph optimizer may reorder arithmetic, so equal up to rounding."""
    models = []
    for optimizer in (OPTIMIZERS[name](), fg.PerWeight(OPTIMIZERS[name](), groups())):
        model = mlp()
        model.compile(optimizer, "mse", jit_compile=False)
        models.append(train(model))
    assert_moved(models[0])
    for plain, grouped in zip(*(values(model.weights) for model in models), strict=True):
        np.testing.assert_allclose(grouped, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("name", chosen(["sgd_momentum", "adam", "lion"], ["adam"]))
def test_mixed_float16_of_multiplier_one(name):
    """`compile` puts loss scaling round PerWeight as it does round any optimizer."""
    keras.config.set_dtype_policy("mixed_float16")
    arguments = that_lead_away(name)
    plain = train(compiled(OPTIMIZERS[name](**arguments), jit=True))
    grouped = train(compiled(fg.PerWeight(OPTIMIZERS[name](**arguments), groups()), jit=True))
    for model in (plain, grouped):
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(grouped.optimizer.inner_optimizer, fg.PerWeight)
    assert_moved(plain)
    assert_as_equal_as_compiled(grouped, plain)


@optimizers_from(0)
def test_each_group_learns_as_under_an_optimizer_of_its_own(name):
    """A group of multiplier m moves as an optimizer at learning rate × m moves its weights."""
    multipliers = {"encoder/kernel": 0.1, "head/kernel": 1.0, "bias": 3.0}
    model, alone = mlp(), mlp()
    grouped = fg.PerWeight(
        OPTIMIZERS[name](), groups(multipliers["encoder/kernel"], multipliers["bias"])
    )
    own = {
        part: OPTIMIZERS[name](learning_rate=float(np.float32(LEARNING_RATE) * np.float32(m)))
        for part, m in multipliers.items()
    }
    for gradients in random_gradients(model.weights):
        grouped.apply(gradients, model.weights)
        for part, optimizer in own.items():
            members = [i for i, weight in enumerate(alone.weights) if part in weight.path]
            optimizer.apply([gradients[i] for i in members], [alone.weights[i] for i in members])
    assert_moved(alone)
    assert_bit_equal(model, alone)


@optimizers_from(1)
def test_one_multiplier_for_all(name):
    """A rule that selects every weight at 0.1 is a tenth of the learning rate."""
    rate = float(np.float32(LEARNING_RATE) * np.float32(0.1))
    plain = push(compiled(OPTIMIZERS[name](learning_rate=rate)))
    rules = [fg.Rule(".", learning_rate_multiplier=0.1)]
    grouped = push(compiled(fg.PerWeight(OPTIMIZERS[name](), rules)))
    assert_moved(plain)
    assert_bit_equal(grouped, plain)


@optimizers_from(2)
def test_multiplier_zero_holds_the_weights(name):
    """Weights of multiplier 0 stay where they are, to the last bit, and the others learn."""
    model = mlp()
    optimizer = fg.PerWeight(OPTIMIZERS[name](), [fg.Rule("head", learning_rate_multiplier=0)])
    for gradients in random_gradients(model.weights):
        optimizer.apply(gradients, model.weights)
    for start, now, path in zip(
        values(mlp().weights), values(model.weights), [w.path for w in model.weights], strict=True
    ):
        assert np.array_equal(start, now) == path.startswith("head/"), path


@pytest.mark.one_backend
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_config_round_trip(name):
    """An optimizer made from the config has the same config, also by way of JSON."""
    decay = None if name in WITHOUT_WEIGHT_DECAY else 0.01
    optimizer = fg.PerWeight(OPTIMIZERS[name](weight_decay=decay), groups(0.1, 2.0), name="mine")
    config = optimizer.get_config()
    again = fg.PerWeight.from_config(optimizer.get_config())
    assert again.name == "mine"
    assert again.get_config() == config
    by_keras = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(optimizer)))
    )
    assert by_keras.get_config() == config
    assert config["optimizer"]["class_name"] == type(OPTIMIZERS[name]()).__name__
    assert config["optimizer"]["config"]["learning_rate"] == np.float32(LEARNING_RATE)
    assert config["optimizer"]["config"]["weight_decay"] == decay
    assert [rule["learning_rate_multiplier"] for rule in config["rules"]] == [0.1, 2.0]


@pytest.mark.one_backend
def test_config_keeps_what_belongs_to_all():
    """Clipping, accumulation, averaging and the schedule are in the config, once."""
    arguments = clipped_accumulated_averaged() | scheduled_and_decayed()
    optimizer = fg.PerWeight(OPTIMIZERS["adam"](**arguments), groups())
    optimizer.build(mlp().weights)
    inner = optimizer.get_config()["optimizer"]["config"]
    for argument, value in clipped_accumulated_averaged().items():
        assert inner[argument] == value
    assert inner["learning_rate"]["class_name"] == "ExponentialDecay"
    again = fg.PerWeight.from_config(optimizer.get_config())
    assert (again.global_clipnorm, again.gradient_accumulation_steps) == (0.5, 2)
    assert (again.use_ema, again.ema_momentum) == (True, 0.9)


@pytest.mark.one_backend
def test_config_has_the_rates_as_they_are_now():
    """A base rate and a multiplier that were changed at run time are in the config."""
    optimizer = fg.PerWeight(OPTIMIZERS["adam"](), groups(0.1))
    optimizer.learning_rate = 0.5
    optimizer.set("encoder", learning_rate_multiplier=0.25)
    again = fg.PerWeight.from_config(optimizer.get_config())
    rates = [row["effective_learning_rate"] for row in again.describe(mlp()).to_dicts()]
    assert rates == [0.125, 0.5, 0.5, 0.5]


@optimizers_from(3)
def test_save_load_continue(name, tmp_path):
    """A model loaded from a file goes on as the one that wrote it, to the last bit."""
    model = push(compiled(fg.PerWeight(OPTIMIZERS[name](), groups(0.1, 2.0))))
    assert_goes_on_alike(model, tmp_path / "model.keras", push)


@pytest.mark.selected("clipped_accumulated_averaged")
@pytest.mark.parametrize("arguments", [clipped_accumulated_averaged, scheduled_and_decayed])
def test_save_load_continue_in_fit(arguments, tmp_path):
    """So it does in compiled `fit`, with accumulators (half filled), averages and a schedule."""
    optimizer = fg.PerWeight(OPTIMIZERS["adam"](**arguments()), groups(0.1, 2.0))
    model = compiled(optimizer, jit=True)
    model.fit(X[:12], Y[:12], batch_size=4, shuffle=False, verbose=0)  # an odd number of steps
    assert_goes_on_alike(model, tmp_path / "model.keras", train)


@pytest.mark.full
def test_save_load_continue_in_mixed_precision(tmp_path):
    """So it does under loss scaling."""
    keras.config.set_dtype_policy("mixed_float16")
    model = train(compiled(fg.PerWeight(OPTIMIZERS["adam"](), groups(0.1, 2.0)), jit=True))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert_goes_on_alike(model, tmp_path / "model.keras", train)


def with_buffers_of_its_own(model):
    """Gives each variable a new array.

    On JAX Keras's averages begin as the arrays of the weights themselves, and a second `fit` of
    any optimizer with `use_ema` would fail on donating one of them twice.
    """
    for variable in [*model.variables, *model.optimizer.variables]:
        variable.assign(values([variable])[0])


def assert_goes_on_alike(model, path, go_on):
    """`model` and its copy loaded from `path` agree, in their states too, before and after."""
    model.save(path)
    loaded = keras.models.load_model(path)
    assert_bit_equal(loaded, model)
    for mine, other in zip(
        values(loaded.optimizer.variables), values(model.optimizer.variables), strict=True
    ):
        np.testing.assert_array_equal(mine, other, strict=True)
    before = values(model.weights)
    for one in (model, loaded):
        with_buffers_of_its_own(one)
        go_on(one)
    assert_bit_equal(loaded, model)
    assert not all(map(np.array_equal, before, values(model.weights)))


@optimizers_from(4)
def test_resume_under_other_rules(name, tmp_path):
    """The state follows the weights into other groups: the run goes on to the last bit."""
    model = push(compiled(fg.PerWeight(OPTIMIZERS[name](), groups(0.1, 2.0))))
    model.save_weights(tmp_path / "model.weights.h5")
    others = [
        fg.Rule("head/kernel", learning_rate_multiplier=1.0),
        fg.Rule("encoder/kernel", learning_rate_multiplier=0.1),
        fg.Rule("head/bias", learning_rate_multiplier=2.0),
        fg.Rule("encoder/bias", learning_rate_multiplier=2.0),
    ]
    resumed = compiled(fg.PerWeight(OPTIMIZERS[name](), others))
    resumed.optimizer.build(resumed.trainable_variables)
    resumed.load_weights(tmp_path / "model.weights.h5")
    assert_bit_equal(resumed, model)
    assert_bit_equal(push(resumed), push(model))


@optimizers_from(5)
def test_set_weights(name):
    """`set_weights` takes what `variables` hold: an optimizer so filled goes on alike."""
    model, copy = mlp(), mlp()
    optimizer = fg.PerWeight(OPTIMIZERS[name](), groups(0.1, 2.0))
    other = fg.PerWeight(OPTIMIZERS[name](), groups(0.1, 2.0))
    other.build(copy.weights)
    *before, after = random_gradients(model.weights)
    for gradients in before:
        optimizer.apply(gradients, model.weights)
    copy.set_weights(model.get_weights())
    other.set_weights(values(optimizer.variables))
    assert int(other.iterations) == len(before)
    optimizer.apply(after, model.weights)
    other.apply(after, copy.weights)
    assert_bit_equal(copy, model)
    for key, value in state(optimizer).items():
        np.testing.assert_array_equal(state(other)[key], value, err_msg=key)
