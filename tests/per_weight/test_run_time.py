"""What may change while training goes on: numbers of rules, callbacks, files, lost processes."""

import importlib.util
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops, optimizers

import finegrain as fg
from compiling import JIT
from optimizers.contract import (
    LEARNING_RATE,
    ONES,
    OPTIMIZERS,
    X,
    Y,
    apply,
    assert_bit_equal,
    assert_moved,
    compiled,
    fill,
    fit_ones,
    groups,
    kernel_and_bias,
    mean_output,
    mlp,
    push,
    random_gradients,
    rule,
    state,
    train,
    unit_slope_model,
    values,
    variables,
)

BACKEND = keras.backend.backend()


def schedule(*rates):
    """The given rates, one a step, the last one for good."""
    return optimizers.schedules.PiecewiseConstantDecay(list(range(len(rates) - 1)), list(rates))


def unit_slope(rules, learning_rate=0.5, **arguments):
    """A compiled model that SGD moves by minus the learning rate at each step."""
    model = unit_slope_model()
    optimizer = fg.PerWeight(optimizers.SGD(learning_rate, **arguments), rules)
    model.compile(optimizer, mean_output, jit_compile=JIT)
    return model


def moved_by(model, epochs=1):
    """How far a step, or several, take kernel and bias down."""
    before = kernel_and_bias(model)
    fit_ones(model, epochs)
    return [b - a for b, a in zip(before, kernel_and_bias(model), strict=True)]


class At(keras.callbacks.Callback):
    """Does something with the optimizer as an epoch begins."""

    def __init__(self, epoch, change):
        super().__init__()
        self.epoch = epoch
        self.change = change

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            optimizer = self.model.optimizer
            self.change(getattr(optimizer, "inner_optimizer", optimizer))


class TestSetMultiplier:
    @pytest.mark.parametrize("called", ["slow", "bias$"])
    def test_by_name_and_by_pattern(self, called):
        """The rule goes by its name, and by any expression that it selects by."""
        model = unit_slope([rule(["bias$", "nothing|bias"], 0.5, name="slow")])
        assert moved_by(model) == [0.5, 0.25]
        model.optimizer.set(called, learning_rate_multiplier=2.0)
        assert moved_by(model) == [0.5, 1.0]

    def test_before_the_optimizer_is_built(self):
        """The number holds from the first step on."""
        model = unit_slope([rule("bias", 0.5)])
        model.optimizer.set("bias", learning_rate_multiplier=4)
        assert moved_by(model) == [0.5, 2.0]

    def test_equal_default_names(self):
        """Rules that select alike are set together by that name, and each by its number."""
        rules = [rule("kernel", 2.0), rule("bias", 2.0), rule("kernel", 0.5)]
        optimizer = fg.PerWeight("sgd", rules)
        optimizer.set("kernel", learning_rate_multiplier=3.0)
        assert multipliers(optimizer) == [3.0, 2.0, 3.0]
        optimizer.set("kernel#2", learning_rate_multiplier=4.0)
        assert multipliers(optimizer) == [3.0, 2.0, 4.0]

    def test_a_rule_of_equal_name_without_the_number(self):
        """Of two rules of one name, that which has the number is set."""
        model = unit_slope([rule("bias", 2.0), fg.Rule("bias", weight_decay=0.0)])
        model.optimizer.set("bias", learning_rate_multiplier=0.5)
        assert moved_by(model) == [0.5, 0.25]

    def test_a_shadowed_rule(self):
        """Where a later rule decides for all its weights, setting it would do nothing."""
        model = unit_slope([rule("bias", 2.0), rule("head", 4.0)])
        fit_ones(model)
        with pytest.raises(ValueError, match="a later rule decides") as error:
            model.optimizer.set("bias", learning_rate_multiplier=8.0)
        assert "Received" in str(error.value)
        assert moved_by(model) == [2.0, 2.0]

    def test_a_schedule(self):
        """It cannot be set, and goes on."""
        model = unit_slope([rule("bias", schedule(1.0, 4.0))])
        with pytest.raises(ValueError, match="a schedule as `learning_rate_multiplier`"):
            model.optimizer.set("bias", learning_rate_multiplier=8.0)
        assert moved_by(model, 2) == [1.0, 2.5]

    @pytest.mark.parametrize(
        ("other", "cure"),
        [
            ({"weight_decay": 0.0}, "no `learning_rate_multiplier` to set: give it one"),
            ({"weight_decay": 0.1}, r"`weight_decay` by `set\(rule, weight_decay=...\)`"),
            ({"gradient": fg.gradients.Sign()}, "no `learning_rate_multiplier` to set: give it"),
            ({"learning_rate": 0.1}, "`learning_rate` by `set\\(.*`set_learning_rate`"),
            ({"optimizer": "adam"}, "`learning_rate` by `set\\(.*`set_learning_rate`"),
        ],
    )
    def test_a_rule_without_one(self, other, cure):
        """The message says what to give it, or what to call."""
        optimizer = fg.PerWeight("sgd", [fg.Rule("bias", **other)])
        with pytest.raises(ValueError, match=cure):
            optimizer.set("bias", learning_rate_multiplier=2.0)

    def test_an_unknown_name(self):
        """The message lists the rules, whatever they select by."""
        optimizer = fg.PerWeight("sgd", [rule(mlp().layers[-1]), rule(always, name="all")])
        with pytest.raises(ValueError, match=r"\['head', 'all'\]\. Received: 'heads'"):
            optimizer.set("heads", learning_rate_multiplier=2.0)

    def test_an_unknown_name_beside_a_variable(self):
        """So it does where a rule selects by a variable."""
        optimizer = fg.PerWeight("sgd", [rule(variables(head=[0.0])[0])])
        with pytest.raises(ValueError, match=r"\['head'\]\. Received: 'heads'"):
            optimizer.set("heads", learning_rate_multiplier=2.0)

    def test_by_pattern_beside_a_variable(self):
        """A rule that selects by a variable does not stand in the way of another."""
        weights = variables(a=[0.0], b=[0.0])
        rules = [rule(weights[0], 2.0), rule("b", 2.0, name="second")]
        optimizer = fg.PerWeight(optimizers.SGD(1.0), rules)
        optimizer.set("b", learning_rate_multiplier=4.0)
        apply(optimizer, weights, [[1.0], [1.0]])
        assert [float(v[0]) for v in values(weights)] == [-2.0, -4.0]

    def test_by_the_name_of_a_layer_or_variable(self):
        """Their names are the rules' names."""
        model = mlp()
        rules = [rule(model.layers[-1], 2.0), rule(model.weights[0], 2.0)]
        optimizer = fg.PerWeight("sgd", rules)
        optimizer.set("head", learning_rate_multiplier=3.0)
        optimizer.set("encoder/kernel", learning_rate_multiplier=4.0)
        assert multipliers(optimizer) == [3.0, 4.0]


def multipliers(optimizer):
    return [config["learning_rate_multiplier"] for config in optimizer.get_config()["rules"]]


def always(variable):
    return True


class TestSetLearningRate:
    def test_of_a_rule(self):
        """The rate itself: the base rate and its callbacks have no say."""
        model = unit_slope([fg.Rule("bias", learning_rate=0.25)])
        assert moved_by(model) == [0.5, 0.25]
        model.optimizer.learning_rate = 2.0
        assert moved_by(model) == [2.0, 0.25]
        model.optimizer.set("bias", learning_rate=1.0)
        assert moved_by(model) == [2.0, 1.0]
        scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr / 4)
        before = kernel_and_bias(model)
        fit_ones(model, callbacks=[scheduler])
        assert [b - a for b, a in zip(before, kernel_and_bias(model), strict=True)] == [0.5, 1.0]

    def test_of_an_own_optimizer(self):
        """So it is with the rate of an optimizer that a rule gives."""
        model = unit_slope([fg.Rule("bias", optimizer=optimizers.SGD(0.25), name="own")])
        assert moved_by(model) == [0.5, 0.25]
        model.optimizer.set("own", learning_rate=2.0)
        assert moved_by(model) == [0.5, 2.0]

    @pytest.mark.selected("nan", "fast")
    @pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), "fast", True])
    def test_to_nonsense(self, bad):
        """A number that is finite and not negative, or an error that leaves all as it was."""
        model = unit_slope([fg.Rule("bias", learning_rate=0.25)])
        with pytest.raises((ValueError, TypeError), match=r"`learning_rate`.*>= 0.*Received"):
            model.optimizer.set("bias", learning_rate=bad)
        assert moved_by(model) == [0.5, 0.25]

    def test_errors(self):
        """A rule without a rate, with a schedule, and none at all."""
        rules = [
            rule("kernel"),
            fg.Rule("bias", learning_rate=schedule(1.0, 2.0)),
            fg.Rule("head", optimizer=optimizers.SGD(schedule(1.0, 2.0))),
        ]
        optimizer = fg.PerWeight("sgd", rules)
        with pytest.raises(ValueError, match="no `learning_rate` to set"):
            optimizer.set("kernel", learning_rate=1.0)
        with pytest.raises(ValueError, match="a schedule as `learning_rate`"):
            optimizer.set("bias", learning_rate=1.0)
        with pytest.raises(ValueError, match=r"cannot be set|no `learning_rate` to set"):
            optimizer.set("head", learning_rate=1.0)
        with pytest.raises(ValueError, match="No rule has this name"):
            optimizer.set("nobody", learning_rate=1.0)


class TestSetTrainable:
    @pytest.mark.parametrize("bad", [1, 0.0, "yes"])
    def test_to_no_bool(self, bad):
        """It says what it takes."""
        optimizer = fg.PerWeight("sgd", [fg.Rule("bias", trainable=False)])
        with pytest.raises(TypeError, match="True or False"):
            optimizer.set("bias", trainable=bad)

    def test_numpys_bool(self):
        """A bool of NumPy's is one."""
        model = unit_slope([fg.Rule("bias", trainable=False)])
        model.optimizer.set("bias", trainable=np.True_)
        assert moved_by(model) == [0.5, 0.5]

    def test_of_a_rule_that_does_not_name_it(self):
        """The message says what to give it."""
        optimizer = fg.PerWeight("sgd", [rule("bias", 0)])
        with pytest.raises(ValueError, match="no `trainable` to set"):
            optimizer.set("bias", trainable=True)

    def test_a_shadowed_rule(self):
        """Where a later rule says it for all its weights, it would change nothing."""
        model = unit_slope([fg.Rule("bias", trainable=False), fg.Rule("head", trainable=True)])
        fit_ones(model)
        with pytest.raises(ValueError, match="a later rule decides"):
            model.optimizer.set("bias", trainable=True)


class TestOwnOptimizers:
    @pytest.mark.parametrize("own", [optimizers.Adam, optimizers.SGD, optimizers.Lion])
    def test_as_an_optimizer_alone(self, own):
        """The rule's weights move as its optimizer moves them, the others as the base does."""
        model, alone = mlp(), mlp()
        optimizer = fg.PerWeight(
            OPTIMIZERS["sgd_momentum"](), [fg.Rule("head", optimizer=own(0.25))]
        )
        base, head = OPTIMIZERS["sgd_momentum"](), own(0.25)
        for gradients in random_gradients(model.weights):
            optimizer.apply(gradients, model.weights)
            base.apply(gradients[:2], alone.weights[:2])
            head.apply(gradients[2:], alone.weights[2:])
        assert_moved(model)
        assert_bit_equal(model, alone)

    def test_the_multiplier_multiplies_its_rate(self):
        """Of the same rule or of another, before or after it."""
        own = optimizers.SGD(0.25)
        both = fg.Rule("bias", optimizer=own, learning_rate_multiplier=4.0)
        assert moved_by(unit_slope([both])) == [0.5, 1.0]
        apart = [rule("bias", 4.0), fg.Rule("bias", optimizer=own)]
        assert moved_by(unit_slope(apart)) == [0.5, 1.0]
        assert moved_by(unit_slope(apart[::-1])) == [0.5, 1.0]

    def test_an_absolute_rate_takes_the_place_of_its_rate(self):
        """A rule's `learning_rate` holds whatever optimizer moves the weights."""
        rules = [
            fg.Rule("bias", optimizer=optimizers.SGD(0.25)),
            fg.Rule("bias", learning_rate=2.0),
        ]
        assert moved_by(unit_slope(rules)) == [0.5, 2.0]

    @pytest.mark.parametrize("rate", [0.25, 0.0])
    def test_a_multiplier_after_an_absolute_rate(self, rate):
        """The last rule decides, and multiplies the optimizer's own rate, whatever stood before."""
        rules = [fg.Rule("a", optimizer=optimizers.SGD(0.5), learning_rate=rate), rule("a", 0.125)]
        optimizer = fg.PerWeight(optimizers.SGD(8.0), rules)
        again = fg.PerWeight.from_config(optimizer.get_config())
        assert again.get_config() == optimizer.get_config()
        for one in (optimizer, again):
            weights = variables(a=[1.0])
            apply(one, weights, [[1.0]])
            assert values(weights)[0].tolist() == [1.0 - 0.0625]
            assert one.effective_learning_rates() == [0.0625]

    def test_a_multiplier_after_a_schedule_beside_a_rate(self):
        """So it is with an optimizer whose own rate is a schedule."""
        schedule = optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.5])
        rules = [
            fg.Rule("a", optimizer=optimizers.SGD(schedule), learning_rate=4.0),
            rule("a", 0.5),
        ]
        optimizer, weights = fg.PerWeight(optimizers.SGD(8.0), rules), variables(a=[1.0])
        seen = []
        for _ in range(2):
            apply(optimizer, weights, [[1.0]])
            seen.append(float(values(weights)[0][0]))
        assert seen == [0.5, 0.25]

    def test_a_schedule_of_its_own(self):
        """It counts the steps, while the base rate stays."""
        own = optimizers.SGD(schedule(0.25, 0.5, 2.0))
        assert moved_by(unit_slope([fg.Rule("bias", optimizer=own)]), 3) == [1.5, 2.75]

    def test_callbacks_do_not_touch_it(self):
        """They set the base rate."""
        model = unit_slope([fg.Rule("bias", optimizer=optimizers.SGD(0.25))])
        fit_ones(model, 2, [keras.callbacks.LearningRateScheduler(lambda epoch: [1.0, 2.0][epoch])])
        assert kernel_and_bias(model) == [-3.0, -0.5]

    def test_one_instance_in_two_rules(self):
        """Each rule has its own copy, with its own state and rate."""
        own = optimizers.SGD(0.25, momentum=0.5)
        rules = [fg.Rule(name, optimizer=own) for name in ("kernel", "bias")]
        model = unit_slope(rules)
        model.optimizer.set("kernel", learning_rate=1.0)
        assert moved_by(model) == [1.0, 0.25]
        again = fg.PerWeight.from_config(model.optimizer.get_config())
        again.build(unit_slope_model().weights)
        assert len(again.variables) == len(model.optimizer.variables)
        assert not own.built

    def test_each_rule_loads_its_own(self, tmp_path):
        """In a file, each rule has the optimizer that it was given."""
        kinds = [optimizers.Adam, optimizers.RMSprop, optimizers.Lion, optimizers.Adagrad]
        paths = [weight.path for weight in mlp().weights]
        rules = [
            fg.Rule(path, optimizer=kind(0.1 * place))
            for place, (path, kind) in enumerate(zip(paths, kinds, strict=True), 1)
        ]
        model = compiled(fg.PerWeight("sgd", rules))
        expected = [(kind.__name__, 0.1 * place) for place, kind in enumerate(kinds, 1)]
        for _ in range(5):
            model.save(tmp_path / "model.keras")
            loaded = keras.models.load_model(tmp_path / "model.keras")
            rows = loaded.optimizer.describe(loaded).to_dicts()
            found = [(row["optimizer"], row["effective_learning_rate"]) for row in rows]
            assert [kind for kind, _ in found] == [kind for kind, _ in expected]
            np.testing.assert_allclose([r for _, r in found], [r for _, r in expected], rtol=1e-6)

    @pytest.mark.parametrize("changed", [False, True])
    def test_resumed(self, changed, tmp_path):
        """A file holds its state, schedule and changed rate: the run goes on bit for bit."""
        rules = [
            fg.Rule("head/kernel", optimizer=optimizers.Adam(schedule(0.1, 0.2, 0.01))),
            fg.Rule("bias", optimizer=optimizers.RMSprop(0.1), learning_rate_multiplier=0.5),
        ]
        model = compiled(fg.PerWeight(OPTIMIZERS["sgd_momentum"](), rules))
        if changed:
            model.optimizer.set("bias", learning_rate=0.3)
            model.optimizer.set("bias", learning_rate_multiplier=0.7)
        push(model)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert_bit_equal(push(loaded), push(model))
        assert state(loaded.optimizer).keys() == state(model.optimizer).keys()
        for key, value in state(model.optimizer).items():
            now = state(loaded.optimizer)[key]
            if key.startswith("rule:"):  # a loaded rule says what the changed one was
                now, value = now[-1], value[-1]
            np.testing.assert_array_equal(now, value, err_msg=key)


class TestWeightDecay:
    @pytest.mark.selected("0.0-adam", "0.3-sgd", "0.3-muon")
    @pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lion", "muon", "rmsprop"])
    @pytest.mark.parametrize("decay", [0.0, 0.3])
    def test_as_an_optimizer_of_that_decay(self, name, decay):
        """A rule's decay takes the place of the optimizer's, for its weights only."""
        model, alone = mlp(), mlp()
        optimizer = fg.PerWeight(
            OPTIMIZERS[name](weight_decay=0.1), [fg.Rule("head", weight_decay=decay)]
        )
        own = {"weight_decay": decay}
        if name == "muon":  # which has another one for what is no matrix
            own["adam_weight_decay"] = decay
        base, head = OPTIMIZERS[name](weight_decay=0.1), OPTIMIZERS[name](**own)
        for gradients in random_gradients(model.weights):
            optimizer.apply(gradients, model.weights)
            base.apply(gradients[:2], alone.weights[:2])
            head.apply(gradients[2:], alone.weights[2:])
        assert_moved(model)
        assert_bit_equal(model, alone)

    def test_over_an_exclusion(self):
        """A rule decides also for weights that `exclude_from_weight_decay` names."""
        weights = variables(kernel=[8.0], bias=[8.0], gain=[8.0])
        sgd = optimizers.SGD(0.5, weight_decay=0.5)
        sgd.exclude_from_weight_decay(var_names=["bias", "gain"])
        optimizer = fg.PerWeight(sgd, [fg.Rule("bias", weight_decay=0.25)])
        apply(optimizer, weights, [[0.0]] * 3)
        assert [float(v[0]) for v in values(weights)] == [6.0, 7.0, 8.0]

    def test_exclusions_are_in_the_file(self, tmp_path):
        """Keras forgets them; a model with PerWeight loads as it was saved."""
        adamw = optimizers.AdamW(LEARNING_RATE, weight_decay=0.5)
        adamw.exclude_from_weight_decay(var_names=["bias"])
        model = push(compiled(fg.PerWeight(adamw, groups(0.5, 2.0))))
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        rows = [m.optimizer.describe(m).to_dicts() for m in (model, loaded)]
        assert [r["weight_decay"] for r in rows[1]] == [0.5, 0.0, 0.5, 0.0]
        assert rows[0] == rows[1]
        assert_bit_equal(push(loaded), push(model))

    def test_at_the_rate_of_the_weight(self):
        """Decay is taken per unit of the weight's own rate."""
        weights = variables(a=[8.0], b=[8.0], c=[8.0])
        rules = [
            fg.Rule("a", learning_rate=0.25, weight_decay=0.5),
            fg.Rule("b", optimizer=optimizers.SGD(0.125), weight_decay=0.5),
        ]
        optimizer = fg.PerWeight(optimizers.SGD(0.5, weight_decay=0.25), rules)
        apply(optimizer, weights, [[0.0]] * 3)
        assert [float(v[0]) for v in values(weights)] == [7.0, 7.5, 7.0]


class TestTheLastRuleWins:
    """For each property by itself; seen in weights that begin at 8, with a gradient of 1."""

    def end(self, *rules, **arguments):
        weights = variables(a=[8.0])
        optimizer = fg.PerWeight(
            optimizers.SGD(0.5, **arguments), [fg.Rule("a", **r) for r in rules]
        )
        apply(optimizer, weights, [[1.0]])
        described = optimizer._reports(weights)[0]
        return float(values(weights)[0][0]), described

    @pytest.mark.parametrize(
        ("rules", "end"),
        [
            ([{"learning_rate_multiplier": 2.0}, {"learning_rate": 0.25}], 7.75),
            ([{"learning_rate": 0.25}, {"learning_rate_multiplier": 2.0}], 7.0),
            ([{"learning_rate_multiplier": 2.0}, {"weight_decay": 0.25}], 8 - 2 - 1),
            ([{"weight_decay": 0.5}, {"weight_decay": 0.0}], 7.5),
            ([{"weight_decay": 0.0}, {"weight_decay": 0.5}], 7.5 - 2),
            ([{"trainable": False}, {"learning_rate_multiplier": 2.0}], 8.0),
            ([{"trainable": False}, {"trainable": True}], 7.5),
            ([{"trainable": True}, {"trainable": False}], 8.0),
            ([{"optimizer": "sgd"}, {"optimizer": optimizers.SGD(1.0)}], 7.0),
            ([{"optimizer": optimizers.SGD(1.0)}, {"learning_rate_multiplier": 0.5}], 7.5),
            ([{"optimizer": optimizers.SGD(1.0)}, {"learning_rate": 0.125}], 7.875),
            ([{"gradient": lambda g: [x * 4.0 for x in g]}, {"trainable": True}], 6.0),
            (
                [
                    {"gradient": lambda g: [x * 4.0 for x in g]},
                    {"gradient": lambda g: [x + 2.0 for x in g]},
                ],
                5.0,
            ),
        ],
    )
    def test_in_weights(self, rules, end):
        """The step is that of the outcome, which is what is described."""
        now, described = self.end(*rules)
        assert now == end
        if not described.trainable:
            assert now == 8.0
        elif not described.gradient:
            rate, decay = described.effective_learning_rate, described.weight_decay
            assert now == 8.0 - rate * 1.0 - rate * decay * 8.0


class TestChangedAndSaved:
    def test_config(self):
        """Numbers changed at run time are in the config, and make an equal optimizer."""
        rules = [
            rule("encoder", 0.5),
            fg.Rule("head/kernel", learning_rate=0.1),
            fg.Rule("head/bias", optimizer=optimizers.SGD(0.3)),
            fg.Rule("bias", trainable=True, name="offsets"),
        ]
        optimizer = fg.PerWeight(optimizers.SGD(1.0), rules)
        optimizer.set("encoder", learning_rate_multiplier=0.25)
        optimizer.set("head/kernel", learning_rate=0.2)
        optimizer.set("head/bias", learning_rate=0.4)
        optimizer.set("offsets", trainable=False)
        again = fg.PerWeight.from_config(optimizer.get_config())
        assert again.get_config() == optimizer.get_config()
        model = mlp()
        rates = [row["effective_learning_rate"] for row in again.describe(model).to_dicts()]
        np.testing.assert_allclose(rates, [0.25, 0.0, 0.2, 0.0], rtol=1e-6)
        assert again.describe(model).to_dicts() == optimizer.describe(model).to_dicts()

    @pytest.mark.parametrize("trainable", [True, False])
    @pytest.mark.parametrize("value", [0.5, 3.0, 0.0])
    def test_a_multiplier_of_a_rule_that_says_trainable_only(self, trainable, value):
        """It is in the config, and what is made of it can be held and released likewise."""
        optimizer = fg.PerWeight(optimizers.SGD(1.0), [fg.Rule("head", trainable=trainable)])
        optimizer.set("head", learning_rate_multiplier=value)
        again = fg.PerWeight.from_config(optimizer.get_config())
        assert again.get_config() == optimizer.get_config()
        for one in (optimizer, again):
            rows = one.describe(mlp()).to_dicts()
            assert [row["effective_learning_rate"] for row in rows] == [1.0, 1.0, value, value]
            weights = variables(head=[1.0])
            apply(one, weights, [[1.0]])
            assert values(weights)[0].tolist() == [1.0 - value]

    def test_a_rule_of_multiplier_one_that_is_held(self):
        """Held by its multiplier, a rule that says `trainable=True` is made again as it is."""
        optimizer = fg.PerWeight(optimizers.SGD(1.0), [rule("head", 1.0, trainable=True)])
        optimizer.set("head", learning_rate_multiplier=0)
        again = fg.PerWeight.from_config(optimizer.get_config())
        again.set("head", learning_rate_multiplier=0.5)
        again.set("head", learning_rate_multiplier=0)
        weights = variables(head=[1.0])
        apply(again, weights, [[1.0]])
        assert values(weights)[0].tolist() == [1.0]

    def test_a_multiplier_that_became_one(self):
        """It may be set to 0 as before, also after a file."""
        optimizer = fg.PerWeight(optimizers.SGD(1.0), [rule("head", 10.0)])
        optimizer.set("head", learning_rate_multiplier=1.0)
        again = fg.PerWeight.from_config(optimizer.get_config())
        for one in (optimizer, again):
            one.set("head", learning_rate_multiplier=0.0)

    def test_a_checkpoint(self, tmp_path):
        """Weights and changed numbers of a file go on bit for bit."""

        def make():
            rules = [
                rule("encoder", 0.5),
                fg.Rule("head/kernel", learning_rate=0.1),
                fg.Rule("head/bias", trainable=False),
            ]
            model = compiled(fg.PerWeight(OPTIMIZERS["adam"](), rules))
            model.optimizer.build(model.weights)
            return model

        model, other = push(make()), make()
        model.optimizer.learning_rate = 0.5
        model.optimizer.set("encoder", learning_rate_multiplier=0.25)
        model.optimizer.set("head/kernel", learning_rate=0.2)
        model.optimizer.set(
            "head/bias", learning_rate_multiplier=0.5
        )  # releases, at half of the rate
        model.save_weights(tmp_path / "model.weights.h5")
        other.load_weights(tmp_path / "model.weights.h5")
        before = values(other.weights)
        assert_bit_equal(push(other), push(model))
        assert not any(map(np.array_equal, before, values(other.weights)))
        rates = [
            row["effective_learning_rate"] for row in other.optimizer.describe(other).to_dicts()
        ]
        np.testing.assert_allclose(rates, [0.125, 0.125, 0.2, 0.25], rtol=1e-6)


class TestOtherRules:
    """A checkpoint goes on under rules that part the weights otherwise, to the same effect."""

    @pytest.mark.full
    @pytest.mark.parametrize("name", ["sgd_momentum", "adam", "nadam", "adafactor", "muon"])
    @pytest.mark.parametrize("reverse", [False, True], ids=["merged", "split"])
    def test_merged_and_split(self, name, reverse, tmp_path):
        """Four groups become one, and one becomes four."""
        split = [rule(p, 2.0) for p in ("encoder/k", "encoder/b", "head/k", "head/b")]
        rules = [split, [rule(".", 2.0)]]
        first, second = rules[::-1] if reverse else rules
        model = push(compiled(fg.PerWeight(OPTIMIZERS[name](), first)))
        model.save_weights(tmp_path / "model.weights.h5")
        other = compiled(fg.PerWeight(OPTIMIZERS[name](), second))
        other.optimizer.build(other.weights)
        other.load_weights(tmp_path / "model.weights.h5")
        assert len(other.optimizer._partition.groups) != len(model.optimizer._partition.groups)
        assert_bit_equal(push(other), push(model))
        assert_moved(model)

    def test_an_optimizer_of_its_own_for_the_same_one(self, tmp_path):
        """A rule that gives the weights the optimizer that they had changes nothing."""
        model = push(compiled(fg.PerWeight(OPTIMIZERS["adam"]())))
        model.save_weights(tmp_path / "model.weights.h5")
        rules = [fg.Rule("head", optimizer=OPTIMIZERS["adam"]())]
        other = compiled(fg.PerWeight(OPTIMIZERS["adam"](), rules))
        other.optimizer.build(other.weights)
        other.load_weights(tmp_path / "model.weights.h5")
        assert_bit_equal(push(other), push(model))

    def test_merged_with_a_weight_that_was_held(self, tmp_path):
        """What has learned goes on as it was, when weights that were held join its group."""
        rules = [fg.Rule("encoder", trainable=False)]
        model = push(compiled(fg.PerWeight(OPTIMIZERS["adam"](), rules)))
        model.save_weights(tmp_path / "model.weights.h5")
        other = compiled(fg.PerWeight(OPTIMIZERS["adam"]()))
        other.optimizer.build(other.weights)
        other.load_weights(tmp_path / "model.weights.h5")
        push(model)
        push(other)
        for mine, theirs in zip(values(other.weights)[2:], values(model.weights)[2:], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        # And what joined them begins as under an optimizer that begins then.
        alone = mlp()
        push(compiled(OPTIMIZERS["adam"](), alone))
        for mine, theirs in zip(values(other.weights)[:2], values(alone.weights)[:2], strict=True):
            np.testing.assert_array_equal(mine, theirs)


POLICIES = ["float32", "mixed_float16"]


class TestCallbacks:
    @pytest.fixture(params=POLICIES, autouse=True)
    def policy(self, request):
        """Each of them, also where Keras puts a wrapper round the optimizer."""
        keras.config.set_dtype_policy(request.param)
        return request.param

    @pytest.mark.full
    def test_reduce_on_plateau(self):
        """It lowers the base rate to its floor: the ratios stay, and schedules of rules too."""
        rules = [rule("bias", schedule(4.0, 4.0, 2.0))]
        model = unit_slope(rules, 1.0)
        plateau = keras.callbacks.ReduceLROnPlateau(
            "loss", factor=0.25, patience=1, min_delta=1e9, min_lr=0.125
        )
        history = fit_ones(model, 4, [plateau])
        assert kernel_and_bias(model) == [
            -(1 + 1 + 0.25 + 0.125),
            -(4 + 4 + 2 * 0.25 + 2 * 0.125),
        ]
        assert [key for key in history if "learning_rate" in key] == ["learning_rate"]

    def test_learning_rate_can_be_read_and_set(self):
        """`optimizer.learning_rate` is the base rate, under the wrapper too."""
        model = unit_slope([rule("bias", 4.0)])
        assert float(ops.convert_to_numpy(model.optimizer.learning_rate)) == 0.5
        model.optimizer.learning_rate = 0.25
        fit_ones(model)
        assert kernel_and_bias(model) == [-0.25, -1.0]

    @pytest.mark.full
    def test_swap_ema_weights(self):
        """Evaluation sees the averages of all groups, training the weights."""
        model = unit_slope([rule("bias", 4.0)], use_ema=True, ema_momentum=0.5)
        seen = []

        class Look(keras.callbacks.Callback):
            def on_test_begin(self, logs=None):
                seen.append(kernel_and_bias(self.model))

        swap = keras.callbacks.SwapEMAWeights()
        # `Look` comes after `swap`, which has put the averages in by then.
        model.fit(
            ONES,
            ONES,
            epochs=2,
            verbose=0,
            callbacks=[swap, Look()],
            validation_data=(ONES, ONES),
        )
        # Kernel −0.5, −1, averaged: −0.5, then −0.75. The bias does four times that.
        assert seen == [[-0.5, -2.0], [-0.75, -3.0]]

    @pytest.mark.full
    def test_checkpoints_keep_ratios(self, tmp_path):
        """A model of `ModelCheckpoint` loads with its rules, rate and changed multiplier."""
        model = unit_slope([rule("bias", 4.0)])
        path = str(tmp_path / "model.keras")
        scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: [0.5, 0.25][epoch])
        change = At(1, lambda optimizer: optimizer.set("bias", learning_rate_multiplier=2.0))
        fit_ones(model, 2, [scheduler, change, keras.callbacks.ModelCheckpoint(path)])
        loaded = keras.models.load_model(path, custom_objects={"mean_output": mean_output})
        assert kernel_and_bias(loaded) == [-0.75, -2.5]
        fit_ones(loaded)
        assert kernel_and_bias(loaded) == [-1.0, -3.0]

    @pytest.mark.full
    def test_backup_and_restore(self, tmp_path):
        """Training that broke off at an epoch goes on as if it had not."""

        class Crash(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 2:
                    raise RuntimeError("power cut")

        def model():
            return compiled(fg.PerWeight(OPTIMIZERS["adam"](), groups(0.1, 2.0)), jit=True)

        change = At(1, lambda optimizer: optimizer.set("encoder", learning_rate_multiplier=0.5))
        whole = train(model(), epochs=4, callbacks=[change])
        backup = str(tmp_path / "backup")
        broken = model()
        with pytest.raises(RuntimeError, match="power cut"):
            train(
                broken,
                epochs=4,
                callbacks=[change, Crash(), keras.callbacks.BackupAndRestore(backup)],
            )
        again = model()
        train(again, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(backup)])
        assert_moved(whole)
        assert_bit_equal(again, whole)

    @pytest.mark.full
    @pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None, reason="Keras writes with TensorFlow"
    )
    @pytest.mark.skipif(BACKEND != "tensorflow", reason="loads TensorFlow beside the backend")
    def test_tensorboard(self, tmp_path):
        """Keras's callback logs the base rate."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        model = unit_slope([rule("bias", 4.0)])
        fit_ones(model, 2, [keras.callbacks.TensorBoard(str(tmp_path), write_graph=False)])
        events = EventAccumulator(str(tmp_path / "train"), {"tensors": 0})
        events.Reload()
        name = next(tag for tag in events.Tags()["tensors"] if "learning_rate" in tag)
        import tensorflow as tf

        rates = [float(tf.make_ndarray(e.tensor_proto)) for e in events.Tensors(name)]
        assert rates == [0.5, 0.5]


class TestWhereMultiOptimizerFails:
    """What is shown elsewhere is left out: rates under callbacks, global norms, selectors."""

    def test_function_as_selector(self, tmp_path):
        """A model with a lambda for a selector is saved and loaded without unsafe code."""
        rules = [fg.Rule(lambda variable: "head" in variable.path, learning_rate_multiplier=0.1)]
        model = push(compiled(fg.PerWeight("adam", rules)))
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert_bit_equal(push(loaded), push(model))
        rows = loaded.optimizer.describe(loaded).to_dicts()
        assert [row["learning_rate_multiplier"] for row in rows] == [1.0, 1.0, 0.1, 0.1]

    def test_all_weights_in_rules(self):
        """Where rules leave nothing to the base optimizer, `set_weights` still works."""
        rules = [
            fg.Rule("encoder", optimizer="adam"),
            fg.Rule("head", optimizer=optimizers.SGD(0.1, momentum=0.9)),
        ]
        model, other = (compiled(fg.PerWeight("sgd", rules)) for _ in range(2))
        push(model)
        other.optimizer.build(other.weights)
        other.set_weights(model.get_weights())
        other.optimizer.set_weights(values(model.optimizer.variables))
        assert_bit_equal(push(other), push(model))

    def test_the_loss_scale_of_the_base_is_kept(self):
        """A fixed loss scale belongs to the whole, and gradients are unscaled once."""
        weights = variables(a=[0.0], b=[0.0])
        sgd = optimizers.SGD(1.0, loss_scale_factor=4.0)
        optimizer = fg.PerWeight(sgd, [rule("a", 2.0)])
        assert optimizer.loss_scale_factor == 4.0
        assert float(ops.convert_to_numpy(optimizer.scale_loss(1.0))) == 4.0
        apply(optimizer, weights, [[4.0], [4.0]])
        assert [float(v[0]) for v in values(weights)] == [-2.0, -1.0]

    def test_averages_under_loss_scaling(self):
        """`fit` ends with the averages of the weights of all groups."""
        keras.config.set_dtype_policy("mixed_float16")
        model = unit_slope([rule("bias", 4.0)], use_ema=True, ema_momentum=0.5)
        fit_ones(model, 2)
        assert isinstance(model.optimizer, optimizers.LossScaleOptimizer)
        assert kernel_and_bias(model) == [-0.75, -3.0]

    def test_accumulation_has_one_count(self):
        """`iterations` counts real steps, and so do the groups of other optimizers."""
        rules = [fg.Rule("bias", optimizer=optimizers.SGD(0.25))]
        model = unit_slope(rules, gradient_accumulation_steps=2)
        fit_ones(model, 8)
        assert int(ops.convert_to_numpy(model.optimizer.iterations)) == 4
        counts = [v for k, v in state(model.optimizer).items() if k.endswith(":step:iterations")]
        assert counts == [4, 4]
        assert kernel_and_bias(model) == [-2.0, -1.0]

    def test_paths_of_layers_that_keras_names(self):
        """A rule by layer does not depend on how many layers were made before."""
        for _ in range(2):
            model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(2)])
            fill(model)
            optimizer = fg.PerWeight("sgd", [rule(model.layers[-1], 0.5)])
            rows = optimizer.describe(model).to_dicts()
            assert [row["learning_rate_multiplier"] for row in rows] == [1.0, 1.0, 0.5, 0.5]


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
import keras
from per_weight.test_run_time import stream, streaming_model

class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 9:
            os.kill(os.getpid(), signal.SIGKILL)

backup = keras.callbacks.BackupAndRestore(sys.argv[1], save_freq=4)
x, y = stream()
streaming_model().fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[backup, Kill()])
"""


def stream():
    """Twelve batches of four."""
    return np.concatenate([X, X[::-1], X]), np.concatenate([Y, Y, Y[::-1]])


def streaming_model():
    optimizer = fg.PerWeight(
        OPTIMIZERS["adam"](),
        [*groups(0.1, 2.0), fg.Rule("head/kernel", optimizer=optimizers.RMSprop(0.01))],
        nonfinite="skip",
    )
    return compiled(optimizer, jit=True)


@pytest.mark.full
def test_a_killed_process(tmp_path):
    """Killed within an epoch, the training goes on from the last file, to the same weights."""
    x, y = stream()
    whole = streaming_model()
    whole.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    root = next(path for path in sys.path if (f"{path}/").endswith("/tests/"))
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), root],
        capture_output=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    again = streaming_model()
    again.optimizer.build(again.trainable_variables)
    again.load_weights(tmp_path / "latest.weights.h5")
    done = int(ops.convert_to_numpy(again.optimizer.iterations))
    assert done == 8
    again.fit(x[4 * done :], y[4 * done :], batch_size=4, shuffle=False, verbose=0)
    assert_moved(whole)
    assert_bit_equal(again, whole)
