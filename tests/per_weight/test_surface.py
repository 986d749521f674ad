"""What users read, set and call on any Keras optimizer works on PerWeight as on the one inside."""

import keras
import numpy as np
import pytest
from keras import ops, optimizers

import finegrain as fg
from covering import chosen
from optimizers.contract import (
    OPTIMIZERS,
    TRIED,
    WITHOUT_WEIGHT_DECAY,
    apply,
    assert_bit_equal,
    assert_moved,
    compiled,
    mlp,
    push,
    random_gradients,
    rule,
    state,
    values,
    variables,
)

BACKEND = keras.backend.backend()

RULES = [rule("head", 2.0)]
WRAPPED = {
    "per_weight": lambda optimizer: fg.PerWeight(optimizer),
    "per_weight_with_rules": lambda optimizer: fg.PerWeight(
        optimizer, [rule("first", 1.0), fg.Rule("second", gradient=lambda g: g)]
    ),
    "adaptive_step_size": lambda optimizer: fg.optimizers.AdaptiveStepSize(
        optimizer, fg.optimizers.ProductGains(0.0)
    ),
    "around_per_weight": lambda optimizer: fg.optimizers.AdaptiveStepSize(
        fg.PerWeight(optimizer), fg.optimizers.ProductGains(0.0)
    ),
    "within_per_weight": lambda optimizer: fg.PerWeight(
        fg.optimizers.AdaptiveStepSize(optimizer, fg.optimizers.ProductGains(0.0))
    ),
}
every_wrapper = pytest.mark.parametrize("wrapper", WRAPPED)


class TestSurface:
    """The names that Keras gives an optimizer, each as it is on the wrapped one."""

    def test_nothing_public_is_missing(self):
        """A name that a later Keras adds has to be thought of here."""
        known = {
            *("add_optimizer_variables", "add_variable", "add_variable_from_reference", "apply"),
            *("apply_gradients", "assign", "assign_add", "assign_sub", "build"),
            *("exclude_from_weight_decay", "finalize_variable_values", "from_config"),
            *("get_config", "iterations", "learning_rate", "load_own_variables"),
            *("save_own_variables", "scale_loss", "set_weights", "stateless_apply"),
            *("update_step", "variables", "clipnorm", "clipvalue", "global_clipnorm", "use_ema"),
            *("ema_momentum", "ema_overwrite_frequency", "loss_scale_factor", "name", "built"),
            *("gradient_accumulation_steps", "weight_decay"),
        }
        own = keras.optimizers.SGD(0.1)
        public = {name for name in dir(own) if not name.startswith("_")}
        if BACKEND == "tensorflow":  # its AutoTrackable
            public -= {
                name for name in public if name not in known and not hasattr(type(own), name)
            }
        assert public - known - {"momentum", "nesterov"} == set()
        for name in known | {"momentum", "nesterov"}:
            assert hasattr(fg.PerWeight(optimizers.SGD(0.1)), name), name

    @pytest.mark.parametrize("name", chosen(OPTIMIZERS, TRIED))
    def test_hyperparameters_are_read(self, name):
        """Each argument of the optimizer reads as it does on itself."""
        plain = OPTIMIZERS[name]()
        wrapped = fg.PerWeight(OPTIMIZERS[name](), RULES)
        for key in plain.get_config():
            if key != "name" and hasattr(plain, key) and not key.startswith("learning"):
                assert str(getattr(wrapped, key)) == str(getattr(plain, key)), key
        assert not hasattr(wrapped, "inner_optimizer")
        assert not hasattr(wrapped, "optimizers")
        with pytest.raises(AttributeError, match="'PerWeight' object has no attribute 'nothing'"):
            _ = wrapped.nothing

    @pytest.mark.full
    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("sgd_momentum", {"momentum": 0.5}),
            ("adam", {"beta_1": 0.5, "epsilon": 0.1}),
            ("adamw", {"weight_decay": 0.5}),
            ("adamw", {"weight_decay": None}),
            ("sgd", {"weight_decay": 0.25}),
            ("sgd", {"clipnorm": 0.1}),
            ("sgd", {"clipvalue": 0.1}),
            ("sgd", {"global_clipnorm": 0.1}),
            ("adam", {"learning_rate": 0.5}),
        ],
    )
    def test_hyperparameters_are_set(self, name, change, when):
        """Set before the first step or between two, they act as on the optimizer itself."""
        ours = compiled(fg.PerWeight(OPTIMIZERS[name](), [rule("head", 1.0)]))
        theirs = compiled(OPTIMIZERS[name]())
        for model in (ours, theirs):
            if when == "after":
                push(model, 2)
            for key, value in change.items():
                setattr(model.optimizer, key, value)
            push(model, 3)  # an odd number: steps that are clipped to one size do not cancel
        assert_moved(ours)
        assert_bit_equal(ours, theirs)
        plain = theirs.optimizer.get_config()
        config = ours.optimizer.get_config()["optimizer"]["config"]
        assert {key: config[key] for key in change} == {key: plain[key] for key in change}

    def test_the_weight_decay_of_a_rule_stays(self):
        """Setting the optimizer's own leaves it alone."""
        optimizer = fg.PerWeight(
            optimizers.SGD(1.0, weight_decay=0.5), [fg.Rule("b", weight_decay=0.25)]
        )
        weights = variables(a=[1.0], b=[1.0])
        optimizer.build(weights)
        optimizer.weight_decay = 0.125
        apply(optimizer, weights, [[0.0], [0.0]])
        assert [float(v[0]) for v in values(weights)] == [0.875, 0.75]
        assert [r.weight_decay for r in optimizer._reports(weights)] == [0.125, 0.25]

    def test_update_step_moves_one_weight(self):
        """As the optimizer of its group does, at the rate that is given."""
        model, alone = mlp(), mlp()
        optimizer, plain = fg.PerWeight(OPTIMIZERS["adam"](), RULES), OPTIMIZERS["adam"]()
        (gradients,) = random_gradients(model.weights, 1)
        for one, weights in ((optimizer, model.weights), (plain, alone.weights)):
            one.build(weights)
            one.update_step(gradients[2], weights[2], ops.convert_to_tensor(0.5))
        assert_bit_equal(model, alone)
        assert not np.array_equal(*values([model.weights[2], mlp().weights[2]]))

    def test_repr(self):
        """It says what is inside, and what the rules are."""
        optimizer = fg.PerWeight(optimizers.Adam(0.5), [rule("head", 2.0)])
        expected = "PerWeight(Adam(0.5), [Rule('head', learning_rate_multiplier=2.0)])"
        assert repr(optimizer) == expected
        many = fg.PerWeight("sgd", [rule(name, 2.0) for name in "abcd"])
        assert repr(many).endswith("Rule('c', learning_rate_multiplier=2.0), … 4 in all])")


EXCLUDED = {
    "names": {"var_names": ["sec"]},
    "list": lambda weights: {"var_list": weights[1:]},
}


class TestExclusionFromWeightDecay:
    """Keras's own cases of `test_weight_decay`, on each wrapper, before and after wrapping."""

    @pytest.mark.parametrize("called", ["before", "after"])
    @pytest.mark.parametrize("what", EXCLUDED)
    @every_wrapper
    def test_as_keras_does(self, wrapper, what, called):
        weights, alone = (variables(first=[3.0], second=[4.0]) for _ in range(2))

        def exclude(optimizer, of):
            given = EXCLUDED[what]
            optimizer.exclude_from_weight_decay(**(given(of) if callable(given) else given))

        inner, plain = (optimizers.SGD(1.0, weight_decay=0.25) for _ in range(2))
        exclude(plain, alone)
        if called == "before":
            exclude(inner, weights)
        optimizer = WRAPPED[wrapper](inner)
        if called == "after":
            exclude(optimizer, weights)
        apply(optimizer, weights, [[1.0], [1.0]])
        apply(plain, alone, [[1.0], [1.0]])
        assert [float(v[0]) for v in values(alone)] == [1.25, 3.0]
        np.testing.assert_array_equal(values(weights), values(alone))

    # Learned step sizes decay the weights of a group at the mean of its own.
    @pytest.mark.selected("adam", "adamw", "muon", "adax")
    @pytest.mark.parametrize(
        "name", sorted(set(OPTIMIZERS) - WITHOUT_WEIGHT_DECAY - {"adaptive_step_size"})
    )
    def test_every_optimizer(self, name):
        """What is excluded after wrapping decays nowhere; the rest does."""
        model, alone = mlp(), mlp()
        # (Step sizes that are learned know one decay for all weights of a group.)
        rules = [] if name.startswith("adaptive_step") else [rule("head", 1.0)]
        ours = fg.PerWeight(OPTIMIZERS[name](weight_decay=0.5), rules)
        theirs = OPTIMIZERS[name](weight_decay=0.5)
        for optimizer in (ours, theirs):
            optimizer.exclude_from_weight_decay(var_names=["bias"])
        assert_bit_equal(push(compiled(ours, model)), push(compiled(theirs, alone)))
        every = push(compiled(OPTIMIZERS[name](weight_decay=0.5)))
        assert not np.array_equal(*values([model.weights[1], every.weights[1]]))

    def test_of_rules_own_optimizers(self):
        """What is excluded decays nowhere, but where a rule says so."""
        own = optimizers.SGD(1.0, weight_decay=0.25)
        rules = [fg.Rule("b|c", optimizer=own), fg.Rule("c", weight_decay=0.5)]
        optimizer = fg.PerWeight(optimizers.SGD(1.0, weight_decay=0.25), rules)
        optimizer.exclude_from_weight_decay(var_names=["a", "b", "c"])
        weights = variables(a=[4.0], b=[4.0], c=[4.0])
        apply(optimizer, weights, [[0.0]] * 3)
        assert [float(v[0]) for v in values(weights)] == [4.0, 4.0, 2.0]

    def test_after_the_first_step(self):
        """It is too late then, and said so."""
        optimizer = fg.PerWeight(optimizers.SGD(1.0, weight_decay=0.25))
        apply(optimizer, variables(a=[4.0]), [[0.0]])
        with pytest.raises(ValueError, match=r"before the first step.*var_names=\['a'\]"):
            optimizer.exclude_from_weight_decay(var_names=["a"])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's own variables")
class TestPlainVariables:
    """Keras's optimizers take plain TensorFlow variables, and so does PerWeight."""

    @pytest.mark.parametrize("name", ["sgd_momentum", "adam", "adax"])
    def test_as_the_optimizer_alone(self, name):
        import tensorflow as tf

        def weights():
            return [tf.Variable([1.0, 2.0], name="first"), tf.Variable([3.0], name="second")]

        ours, theirs = weights(), weights()
        rules = [
            rule("first", 1.0, trainable=True),
            fg.Rule(ours[1], gradient=fg.gradients.ClipNorm(1e9)),
            fg.Rule(lambda variable: "second" in variable.name, weight_decay=0.0),
        ]
        optimizer = fg.PerWeight(OPTIMIZERS[name](), rules, nonfinite="skip")
        plain = OPTIMIZERS[name](**({"weight_decay": None} if name == "adax" else {}))
        optimizer.weight_decay = None
        for _ in range(3):
            gradients = [tf.constant([1.0, -1.0]), tf.constant([0.5])]
            optimizer.apply_gradients(list(zip(gradients, ours, strict=True)))
            plain.apply_gradients(list(zip(gradients, theirs, strict=True)))
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine.numpy(), other.numpy())
        assert [report.path for report in optimizer._reports(ours)] == ["first", "second"]
        again = fg.PerWeight(OPTIMIZERS[name](), nonfinite="skip")
        again.build(ours)
        again.load_own_variables(state(optimizer))
        assert int(again.iterations) == 3
