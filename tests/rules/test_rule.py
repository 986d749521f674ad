"""Rules: what they accept, what they say of a weight together, and how they are saved."""

import json
import re
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import finegrain as fg
from finegrain.rules.rule import outcome_of, select_weights
from finegrain.rules.selection import select

PROPERTIES = {
    "learning_rate_multiplier": 0.5,
    "learning_rate": 0.25,
    "weight_decay": 0.125,
    "gradient": fg.gradients.ClipNorm(1.0, ord=1),
    "optimizer": "adam",
    "trainable": False,
}
"""A value of each property that a rule can name."""

every_property = pytest.mark.parametrize("argument", PROPERTIES)
every_rate = pytest.mark.parametrize("argument", ["learning_rate_multiplier", "learning_rate"])
every_number = pytest.mark.parametrize(
    "argument", ["learning_rate_multiplier", "learning_rate", "weight_decay"]
)


@keras.saving.register_keras_serializable(package="test_rules")
def halved_each_step(step):
    """A schedule as a function: 1, 1/2, 1/4, …"""
    return 0.5 ** ops.cast(step, "float32")


@keras.saving.register_keras_serializable(package="test_rules")
def is_bias(variable):
    return variable.path.endswith("bias")


@keras.saving.register_keras_serializable(package="test_rules")
def negated(gradients):
    return [-gradient for gradient in gradients]


def exponential():
    """The same as a schedule of Keras."""
    return keras.optimizers.schedules.ExponentialDecay(1.0, 1, 0.5)


def selects(rule, variable):
    """Whether `rule` selects `variable`."""
    return any(select(selector, [variable])[0] for selector in rule.selectors)


def weight(path):
    """Anything with a path can be selected."""
    return SimpleNamespace(path=path, shape=(2, 3))


@cache
def real_weight(path):
    """A variable of Keras."""
    *scopes, name = path.split("/")
    with ExitStack() as stack:
        for scope in scopes:
            stack.enter_context(keras.name_scope(scope))
        made = keras.Variable(np.zeros((2, 3)), name=name)
    assert made.path == path
    return made


def mlp():
    """Weights `encoder/kernel`, `encoder/bias`, `head/kernel`, `head/bias`."""
    inputs = keras.Input((2,))
    hidden = keras.layers.Dense(3, name="encoder")(inputs)
    return keras.Model(inputs, keras.layers.Dense(1, name="head")(hidden))


def through_json(rule):
    """A rule made from the config of `rule`, by way of JSON."""
    return fg.Rule.from_config(json.loads(json.dumps(rule.get_config())))


def variable(value=0.0, name="w"):
    return keras.Variable(np.array([value], "float32"), name=name)


def moves(optimizer, variables, steps=1):
    """What `steps` gradients of 1 make of `variables`, each of shape (1,)."""
    for _ in range(steps):
        optimizer.apply([ops.ones((1,)) for _ in variables], variables)
    return [float(ops.convert_to_numpy(v.value)[0]) for v in variables]


@pytest.mark.one_backend
class TestRule:
    def test_searches_in_the_path(self):
        """An expression is found anywhere in the path, unless it says otherwise."""
        rule = fg.Rule("crf", learning_rate_multiplier=10)
        assert selects(rule, weight("tagger/crf/transitions"))
        assert selects(rule, weight("crf_2/start"))
        assert not selects(rule, weight("tagger/CRF/transitions"))
        assert not selects(fg.Rule("^crf", learning_rate_multiplier=1), weight("tagger/crf/end"))
        assert selects(fg.Rule("bias$", learning_rate_multiplier=1), weight("dense/bias"))
        assert not selects(fg.Rule("bias$", learning_rate_multiplier=1), weight("bias/dense"))

    def test_a_list_selects_what_any_of_it_selects(self):
        """The expressions of a list are alternatives."""
        rule = fg.Rule(["a/", "c$"], learning_rate_multiplier=1)
        paths = ("a/b", "b/c", "a/c", "b/b")
        assert [selects(rule, weight(path)) for path in paths] == [True, True, True, False]

    def test_a_variable_of_keras(self):
        """`variable.path` is what is searched."""
        layer = keras.layers.Dense(1, name="head")
        layer.build((None, 2))
        rule = fg.Rule("head/kernel", learning_rate_multiplier=1)
        assert [selects(rule, variable) for variable in layer.weights] == [True, False]

    @every_property
    def test_each_property_alone_is_enough(self, argument):
        """A rule names one property and leaves the others open."""
        rule = fg.Rule("a", **{argument: PROPERTIES[argument]})
        assert list(rule._named()) == [argument]
        for other in PROPERTIES.keys() - {argument}:
            assert getattr(rule, other) in (None, [])

    @pytest.mark.parametrize("nothing", [{}, {"name": "x"}, {"gradient": []}, {"gradient": ()}])
    def test_a_rule_that_sets_nothing(self, nothing):
        """It would do nothing: an error that says what to give."""
        with pytest.raises(ValueError, match=r"give `learning_rate_multiplier`.*Rule\('head'\)"):
            fg.Rule("head", **nothing)

    def test_arguments_are_named(self):
        """The multiplier is given by name, so that a rule reads by itself."""
        with pytest.raises(TypeError):
            fg.Rule("a", 1.0)

    def test_a_function_is_asked_for_a_bool(self):
        """A rule asks the function, and refuses an answer that is none."""
        assert selects(fg.Rule(is_bias, trainable=False), weight("a/bias"))
        with pytest.raises(TypeError, match=r"return True or False\. Received: 'a/bias'"):
            selects(fg.Rule(lambda v: v.path, trainable=False), weight("a/bias"))


@pytest.mark.one_backend
class TestNumbers:
    @every_number
    @pytest.mark.parametrize("value", [0, 0.0, 1, 1e-3, 1e4, np.float32(0.5), np.int64(2)])
    def test_kept_as_floats(self, argument, value):
        """A number is kept as a float of Python."""
        kept = getattr(fg.Rule("a", **{argument: value}), argument)
        assert type(kept) is float
        assert kept == value

    @every_number
    @pytest.mark.parametrize("bad", [-1e-9, -1, float("nan"), float("inf"), -float("inf"), 1e39])
    def test_out_of_range(self, argument, bad):
        """Negative, or none that float32 holds: what is expected and what was received."""
        message = f"`{argument}` should be a finite number >= 0. Received: {argument}={bad!r}"
        with pytest.raises(ValueError, match=re.escape(message)):
            fg.Rule("a", **{argument: bad})

    @every_number
    @pytest.mark.parametrize("bad", ["fast", "0.5", [1.0, 2.0], 1j, True, False, np.bool_(True)])
    def test_no_numbers(self, argument, bad):
        """What is no number is a TypeError that shows it; a bool is none."""
        message = f"`{argument}` should be a finite number >= 0. Received: {argument}={bad!r}"
        with pytest.raises(TypeError, match=re.escape(message)):
            fg.Rule("a", **{argument: bad})

    def test_integers_beyond_floats(self):
        """An integer too large for any float is out of range, too."""
        with pytest.raises(ValueError, match="finite number >= 0"):
            fg.Rule("a", learning_rate=10**400)

    def test_decay_is_no_schedule(self):
        """Only rates follow the step."""
        with pytest.raises(TypeError, match="`weight_decay` should be a finite number >= 0"):
            fg.Rule("a", weight_decay=halved_each_step)

    @pytest.mark.parametrize("bad", [0, 1, "yes", 0.0])
    def test_trainable_is_a_bool(self, bad):
        """Numbers are not taken for it."""
        message = f"`trainable` should be True or False. Received: {bad!r}"
        with pytest.raises(TypeError, match=re.escape(message)):
            fg.Rule("a", trainable=bad)
        assert fg.Rule("a", trainable=np.bool_(False)).trainable is False

    @pytest.mark.parametrize("bad", [3, ["a"], b"a"])
    def test_names_are_strings(self, bad):
        """What was received is shown."""
        message = f"name should be a string. Received: name={bad!r}"
        with pytest.raises(TypeError, match=re.escape(message)):
            fg.Rule("a", trainable=False, name=bad)


@pytest.mark.one_backend
class TestContradictions:
    @pytest.mark.parametrize("rates", [(0.5, 0.25), (1, 0), (halved_each_step, 0.25)])
    def test_two_rates(self, rates):
        """A rate and a multiplier say one property twice."""
        multiplier, rate = rates
        with pytest.raises(ValueError, match="not both") as error:
            fg.Rule("a", learning_rate_multiplier=multiplier, learning_rate=rate)
        received = f"learning_rate_multiplier={multiplier!r}, learning_rate={rate!r}"
        assert str(error.value).endswith(f"Received: {received}")

    @every_rate
    def test_a_rate_of_zero_that_trains(self, argument):
        """A rate of 0 holds the weights, `trainable=True` says that they move."""
        with pytest.raises(ValueError, match="contradicts itself: leave one of them out") as error:
            fg.Rule("a", trainable=True, **{argument: 0})
        assert f"Received: Rule('a', {argument}=0.0, trainable=True)" in str(error.value)
        fg.Rule("a", trainable=False, **{argument: 0})
        fg.Rule("a", trainable=True, **{argument: 1})

    @every_rate
    def test_a_warmup_from_zero_trains(self, argument):
        """A schedule that begins at 0 does not hold the weights for good."""
        warmup = keras.optimizers.schedules.PolynomialDecay(0.0, 2, 1.0)
        fg.Rule("a", trainable=True, **{argument: warmup})


class TestSchedules:
    @pytest.mark.parametrize("schedule", [exponential(), halved_each_step])
    def test_multiplier(self, schedule):
        """The multiplier of step t multiplies the base rate: 4 · (1 + 1/2 + 1/4)."""
        weights = [variable(name="a"), variable(name="b")]
        rule = fg.Rule("a", learning_rate_multiplier=schedule)
        optimizer = fg.PerWeight(keras.optimizers.SGD(4.0), [rule])
        assert moves(optimizer, weights, steps=3) == [-7.0, -12.0]
        rates = [
            row["effective_learning_rate"]
            for row in optimizer.describe(SimpleNamespace(trainable_variables=weights)).to_dicts()
        ]
        assert rates == [0.5, 4.0]

    @pytest.mark.parametrize("schedule", [exponential(), halved_each_step])
    def test_rate(self, schedule):
        """The base rate does not touch an absolute rate: 1 + 1/2 + 1/4."""
        weights = [variable(name="a"), variable(name="b")]
        optimizer = fg.PerWeight(keras.optimizers.SGD(4.0), [fg.Rule("a", learning_rate=schedule)])
        optimizer.learning_rate = 8.0
        assert moves(optimizer, weights, steps=3) == [-1.75, -24.0]

    def test_in_compiled_fit(self):
        """The step is a tensor in a compiled step, too."""
        model = keras.Sequential(
            [keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros", name="head")]
        )
        rule = fg.Rule("bias", learning_rate_multiplier=halved_each_step)
        model.compile(
            fg.PerWeight(keras.optimizers.SGD(4.0), [rule]), lambda y, prediction: prediction
        )
        model.fit(np.ones((1, 1)), np.ones((1, 1)), epochs=3, verbose=0)
        values = [float(np.ravel(ops.convert_to_numpy(v.value))[0]) for v in model.weights]
        assert values == [-12.0, -7.0]

    def test_a_rate_at_zero_holds(self):
        """While a schedule is 0 the weight and its slots stay."""
        weights = [variable(name="a")]
        rule = fg.Rule("a", learning_rate_multiplier=lambda step: ops.cast(step > 1, "float32"))
        optimizer = fg.PerWeight(keras.optimizers.SGD(1.0, momentum=0.5), [rule])
        assert moves(optimizer, weights, steps=2) == [0.0]
        assert moves(optimizer, weights) == [-1.0]

    @every_rate
    @pytest.mark.parametrize(
        "answer", [-1.0, float("nan"), float("inf"), np.ones(2), np.ones((1,))], ids=str
    )
    def test_that_return_no_rate(self, argument, answer):
        """A schedule is tried at step 0, and the message has what it gave."""

        def schedule(step):
            return answer

        with pytest.raises(ValueError, match="should return a finite number >= 0") as error:
            fg.Rule("a", **{argument: schedule})
        assert f"Received: {argument}={schedule!r}, which at step 0 gives" in str(error.value)

    @every_rate
    @pytest.mark.parametrize("schedule", [lambda: 1.0, lambda step, rate: rate, lambda step: 1 / 0])
    def test_that_fail(self, argument, schedule):
        """What a schedule should be, what it raised, and which it was."""
        with pytest.raises(ValueError, match=f"`{argument}` as a schedule should") as error:
            fg.Rule("a", **{argument: schedule})
        assert f"Received: {argument}={schedule!r}" in str(error.value)

    @every_rate
    @pytest.mark.parametrize("answer", ["0.5", object()], ids=["string", "object"])
    def test_that_return_no_number(self, argument, answer):
        """What is not even a number is refused in the same words."""
        with pytest.raises(ValueError, match=f"`{argument}` as a schedule should"):
            fg.Rule("a", **{argument: lambda step: answer})


@pytest.mark.one_backend
class TestGradient:
    def test_one_or_several(self):
        """A transform, a function, or a list of both; functions become transforms."""
        clip = fg.gradients.ClipValue(1.0)
        assert fg.Rule("a", gradient=clip).gradient == [clip]
        rule = fg.Rule("a", gradient=[clip, negated])
        assert rule.gradient[0] is clip
        assert isinstance(rule.gradient[1], fg.gradients.Function)
        assert rule.gradient[1].fn is negated

    @pytest.mark.parametrize(
        "bad", [3, "ClipNorm", fg.gradients.ClipNorm, [fg.gradients.Sign(), 1.0], [[negated]]]
    )
    def test_what_is_no_transform(self, bad):
        """A class, a name and a nested list are none: the message shows the right forms."""
        message = f"or a list of these. Received: gradient={bad!r}"
        with pytest.raises(TypeError, match=re.escape(message)) as error:
            fg.Rule("a", gradient=bad)
        assert "such as ClipNorm(1.0)" in str(error.value)


class TestOwnOptimizer:
    @pytest.mark.parametrize(
        "given",
        ["adam", keras.optimizers.Adam(), {"class_name": "Adam", "config": {}}],
        ids=["name", "optimizer", "config"],
    )
    def test_forms(self, given):
        """An optimizer, its name or its config."""
        assert isinstance(fg.Rule("a", optimizer=given).optimizer, keras.optimizers.Adam)

    @pytest.mark.parametrize(
        "argument",
        [
            {"clipnorm": 1.0},
            {"clipvalue": 1.0},
            {"global_clipnorm": 1.0},
            {"use_ema": True},
            {"loss_scale_factor": 2.0},
            {"gradient_accumulation_steps": 2},
        ],
        ids=str,
    )
    def test_what_belongs_to_all_weights(self, argument):
        """Such an argument would be ignored: the message names it and where it belongs."""
        (name,) = argument
        with pytest.raises(ValueError, match=f"^{name}: these belong to all weights") as error:
            fg.Rule("a", optimizer=keras.optimizers.SGD(1.0, **argument))
        assert f"Received: optimizer=SGD with {argument}" in str(error.value)
        assert "Set them on the optimizer that PerWeight wraps" in str(error.value)

    def test_built(self):
        """The state of an optimizer that has been built would be lost."""
        optimizer = keras.optimizers.SGD(1.0)
        optimizer.build([variable()])
        with pytest.raises(ValueError, match=r"has not been built.*Pass a new one\. Received: opt"):
            fg.Rule("a", optimizer=optimizer)

    def test_wrapper(self):
        """A wrapper belongs outside."""
        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0))
        with pytest.raises(ValueError, match=r"not a wrapper.*LossScaleOptimizer\(PerWeight\("):
            fg.Rule("a", optimizer=scaled)

    def test_per_weight(self):
        """`PerWeight` within a rule is a wrapper, too."""
        with pytest.raises(ValueError, match="Received: optimizer="):
            fg.PerWeight("sgd", [fg.Rule("a", optimizer=fg.PerWeight("sgd"))])

    @pytest.mark.parametrize("bad", [3, "no such optimizer", keras.optimizers.Adam])
    def test_what_is_no_optimizer(self, bad):
        """Keras tells what it was given."""
        with pytest.raises(ValueError, match=re.escape(str(bad))):
            fg.Rule("a", optimizer=bad)


@pytest.mark.one_backend
class TestNames:
    def test_default(self):
        """By default the selectors, in their order."""
        model = mlp()
        head = model.get_layer("head")
        for selector, name in [
            ("head", "head"),
            (["b", "a"], "b, a"),
            (head, "head"),
            (head.bias, "head/bias"),
            (is_bias, "is_bias"),
            (["crf", head, head.bias, is_bias], "crf, head, head/bias, is_bias"),
        ]:
            assert fg.Rule(selector, trainable=False).name == name
        assert fg.Rule("head", trainable=False, name="top").name == "top"

    def test_repeated_defaults(self):
        """Several rules may select by the same expression or layer."""
        model = mlp()
        head = model.get_layer("head")
        rules = [
            fg.Rule("bias", learning_rate_multiplier=2.0),
            fg.Rule("bias", weight_decay=0.5),
            fg.Rule(head, learning_rate_multiplier=4.0),
            fg.Rule(head, trainable=False),
        ]
        optimizer = fg.PerWeight("sgd", rules)
        optimizer.build(model.trainable_variables)
        assert optimizer.describe(model).to_dicts()[-1]["rules"] == ("bias", "bias", "head", "head")

    def test_repeated_names(self):
        """Names that were given are different: the message has the repeated ones."""
        rules = [fg.Rule("a", trainable=False, name=name) for name in ("x", "y", "x")]
        with pytest.raises(ValueError, match=r"change one `name=`\. Received: \['x'\]"):
            fg.PerWeight("sgd", rules)

    @pytest.mark.parametrize("kind", ["layer", "variable", "function"])
    @pytest.mark.parametrize("built", [False, True])
    def test_repeated_defaults_come_back_from_the_config(self, kind, built):
        """What could be made can be loaded."""
        model = mlp()
        head = model.get_layer("head")
        selector = {"layer": head, "variable": head.bias, "function": is_bias}[kind]
        rules = [
            fg.Rule(selector, learning_rate_multiplier=2.0),
            fg.Rule(selector, gradient=fg.gradients.Sign()),
        ]
        optimizer = fg.PerWeight("sgd", rules)
        if built:
            optimizer.build(model.trainable_variables)
        again = fg.PerWeight.from_config(json.loads(json.dumps(optimizer.get_config())))
        rows = [each.describe(model).to_dicts() for each in (optimizer, again)]
        assert rows[0] == rows[1]


@pytest.mark.one_backend
class TestRepr:
    def test_expressions(self):
        """It shows what was asked for."""
        rule = fg.Rule(("a", "b"), learning_rate_multiplier=2)
        assert repr(rule) == "Rule(['a', 'b'], learning_rate_multiplier=2.0)"
        rule = fg.Rule("a", learning_rate_multiplier=2)
        assert repr(rule) == "Rule('a', learning_rate_multiplier=2.0)"

    def test_everything(self):
        """All properties, in the order of the arguments; objects by their names."""
        rule = fg.Rule(
            mlp().get_layer("head"),
            trainable=False,
            optimizer=keras.optimizers.Muon(1e-3),
            gradient=[fg.gradients.Centralize(), negated],
            weight_decay=0,
            learning_rate=0.5,
        )
        assert repr(rule) == (
            "Rule('head', learning_rate=0.5, weight_decay=0.0, "
            "gradient=[Centralize(), Function(negated)], optimizer=Muon, trainable=False)"
        )


@pytest.mark.one_backend
class TestConfig:
    @pytest.mark.parametrize("weights", ["bias$", ["a", "b"], ("a", "b")])
    @pytest.mark.parametrize("name", [None, "mine"])
    def test_expressions(self, weights, name):
        """A rule made from the config is the same rule, also by way of Keras."""
        rule = fg.Rule(weights, learning_rate_multiplier=0.5, name=name)
        again = through_json(rule)
        assert again.get_config() == rule.get_config()
        assert (again.selectors, again.name) == (rule.selectors, rule.name)
        assert again.is_named == (name is not None)
        by_keras = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rule))
        assert isinstance(by_keras, fg.Rule)
        assert by_keras.get_config() == rule.get_config()

    @pytest.mark.parametrize(
        "properties",
        [
            {"learning_rate_multiplier": 0.1},
            {"learning_rate_multiplier": halved_each_step},
            {"learning_rate_multiplier": exponential()},
            {"learning_rate": 0.1},
            {"learning_rate": halved_each_step},
            {"learning_rate": exponential()},
            {"weight_decay": 0.0},
            {"gradient": [fg.gradients.ClipNorm(1.0, ord=float("inf")), negated]},
            {"optimizer": keras.optimizers.Adam(exponential(), beta_1=0.5)},
            {"optimizer": keras.optimizers.SGD(0.1, momentum=0.5), "weight_decay": 0.25},
            {"trainable": True},
            {"trainable": False},
        ],
        ids="-".join,
    )
    def test_properties(self, properties):
        """Each property comes back, and what was not named stays open."""
        rule = fg.Rule("a", **properties)
        again = through_json(rule)
        assert again.get_config() == rule.get_config()
        assert again._named().keys() == rule._named().keys() == properties.keys()
        for name, value in properties.items():
            back = getattr(again, name)
            if isinstance(value, keras.optimizers.Optimizer):
                assert type(back) is type(value)
                assert back.get_config() == value.get_config()
            elif name == "gradient":
                assert [t.label for t in back] == [t.label for t in rule.gradient]
                assert back[1].fn is negated
            elif callable(value):
                steps = [ops.convert_to_tensor(step) for step in (0, 3)]
                assert [float(back(step)) for step in steps] == [1.0, 0.125]
            else:
                assert back == value

    def test_layers_and_variables(self):
        """They stand as exact paths; the rule keeps its name and selects the same weights."""
        model = mlp()
        head = model.get_layer("head")
        rule = fg.Rule([head, model.get_layer("encoder").bias, "^none$"], trainable=False)
        assert rule.get_config()["weights"] == [
            "^(head/kernel|head/bias)$",
            "^(encoder/bias)$",
            "^none$",
        ]
        again = through_json(rule)
        assert again.name == rule.name == "head, encoder/bias, ^none$"
        assert [selects(again, variable) for variable in model.weights] == [False, True, True, True]
        assert not selects(again, weight("other/head/kernel"))

    def test_functions(self):
        """A registered function comes back as itself."""
        again = through_json(fg.Rule(["a", is_bias], trainable=False))
        assert again.selectors == ["a", is_bias]
        assert again.name == "a, is_bias"

    def test_custom_objects(self):
        """Functions that are not registered may be handed in."""

        def by_hand(step):
            return 0.5

        config = fg.Rule("a", learning_rate=by_hand).get_config()
        again = fg.Rule.from_config(config, custom_objects={"by_hand": by_hand})
        assert again.learning_rate is by_hand

    def test_own_optimizer_is_not_shared(self):
        """A rule made from a config has an optimizer of its own."""
        rule = fg.Rule("a", optimizer=keras.optimizers.SGD(0.1))
        assert fg.Rule.from_config(rule.get_config()).optimizer is not rule.optimizer


NAMES = st.sampled_from(["encoder", "decoder", "dense", "dense_1", "norm.1", "kernel", "bias"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@st.composite
def expressions(draw):
    """An expression and what it should mean, said without regular expressions."""
    parts = draw(st.lists(PATHS, min_size=1, max_size=2))
    kind = draw(st.sampled_from(["anywhere", "at the start", "at the end", "whole"]))
    pattern = "|".join(map(re.escape, parts))
    before = "^" if kind in {"at the start", "whole"} else ""
    after = "$" if kind in {"at the end", "whole"} else ""
    means = {
        "anywhere": str.__contains__,
        "at the start": str.startswith,
        "at the end": str.endswith,
        "whole": str.__eq__,
    }[kind]
    return f"{before}({pattern}){after}", lambda path: any(means(path, part) for part in parts)


OPTIMIZERS = [("SGD", 0.5), ("Adam", 0.25), ("Lion", 0.125)]
TRANSFORMS = [fg.gradients.Sign(), fg.gradients.Zero(), fg.gradients.ClipNorm(1.0)]


@st.composite
def properties(draw):
    """What one rule says: at least one property, and no contradiction."""
    says = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "rate": st.tuples(
                    st.sampled_from(["learning_rate_multiplier", "learning_rate"]),
                    st.sampled_from([0.0, 0.125, 1.0, 1024.0]),
                ),
                "weight_decay": st.sampled_from([0.0, 0.5, 2.0]),
                "gradient": st.lists(st.sampled_from(TRANSFORMS), min_size=1, max_size=2),
                "optimizer": st.sampled_from(OPTIMIZERS),
                "trainable": st.booleans(),
            },
        ).filter(bool)
    )
    if says.get("trainable") and says.get("rate", (None, 1.0))[1] == 0.0:
        del says["trainable"]
    return says


RULE_SETS = st.lists(
    st.tuples(st.lists(expressions(), min_size=1, max_size=2), properties()), max_size=5
)


def made(rule_set):
    rules = []
    for index, (alternatives, says) in enumerate(rule_set):
        arguments = dict(says)
        arguments |= dict([arguments.pop("rate")]) if "rate" in says else {}
        if "optimizer" in says:
            kind, rate = says["optimizer"]
            arguments["optimizer"] = getattr(keras.optimizers, kind)(rate)
        patterns = [pattern for pattern, _ in alternatives]
        rules.append(fg.Rule(patterns, name=f"rule {index}", **arguments))
    return rules


def selected_by(rule_set, path):
    """Indices of the rules that select `path`."""
    return [
        index
        for index, (alternatives, _) in enumerate(rule_set)
        if any(means(path) for _, means in alternatives)
    ]


def without_idle_expressions(rule_set, paths):
    """An expression that selects nothing is an error: leave it out."""
    return [
        (kept, says)
        for alternatives, says in rule_set
        if (kept := [e for e in alternatives if any(e[1](path) for path in paths)])
    ]


@pytest.mark.one_backend
@given(RULE_SETS, st.lists(PATHS, min_size=1, max_size=6))
def test_every_expression_selects_something(rule_set, paths):
    """All rules that select a weight, in their order; an error for the first idle expression."""
    idle = [
        pattern
        for alternatives, _ in rule_set
        for pattern, means in alternatives
        if not any(means(path) for path in paths)
    ]
    if idle:
        with pytest.raises(ValueError, match=re.escape(f"expression {idle[0]!r} selects no ")):
            select_weights(made(rule_set), map(weight, paths))
    else:
        selected = select_weights(made(rule_set), map(weight, paths))
        assert list(map(list, selected)) == [selected_by(rule_set, path) for path in paths]


@pytest.mark.one_backend
@settings(max_examples=100)
@given(RULE_SETS, st.lists(PATHS, min_size=1, max_size=6, unique=True))
def test_the_last_rule_wins(rule_set, paths):
    """`describe` shows, for each property, what the last rule that names it says."""
    rule_set = without_idle_expressions(rule_set, paths)
    model = SimpleNamespace(trainable_variables=[real_weight(path) for path in paths])
    optimizer = fg.PerWeight(keras.optimizers.RMSprop(4.0, weight_decay=8.0), made(rule_set))
    for path, row in zip(paths, optimizer.describe(model).to_dicts(), strict=True):
        chosen = selected_by(rule_set, path)
        says = {key: value for index in chosen for key, value in rule_set[index][1].items()}
        optimizer_name, rate = says.get("optimizer", ("RMSprop", 4.0))
        decay = 0.0 if "optimizer" in says else 8.0
        kind, number = says.get("rate", ("learning_rate_multiplier", 1.0))
        multiplier = number if kind == "learning_rate_multiplier" else 1.0
        rate = number if kind == "learning_rate" else rate
        multiplier *= says.get("trainable", True)
        by = {key: f"rule {index}" for index in chosen for key in rule_set[index][1]}
        factors = [(by["rate"], number)] if "rate" in by and kind != "learning_rate" else []
        factors += [(by["trainable"], float(says["trainable"]))] if "trainable" in by else []
        assert row == {
            "path": path,
            "shape": (2, 3),
            "parameters": 6,
            "optimizer": optimizer_name,
            "learning_rate_multiplier": multiplier,
            "effective_learning_rate": rate * multiplier,
            "weight_decay": says.get("weight_decay", decay),
            "gradient": tuple(
                t.label for index in chosen for t in rule_set[index][1].get("gradient", [])
            ),
            "trainable": rate * multiplier > 0,
            "rules": tuple(f"rule {index}" for index in chosen),
            "factors": tuple(factors),
            "dtype": "float64",
        }


@pytest.mark.one_backend
def test_outcome_of_by_hand():
    """For each property the index of the last rule that names it among those that select."""
    rules = [
        fg.Rule("a", learning_rate=1.0, optimizer="sgd"),
        fg.Rule("a", learning_rate_multiplier=2.0, weight_decay=0.5),
        fg.Rule("b", optimizer="adam", weight_decay=0.25),
        fg.Rule("a", trainable=True),
    ]
    outcome = outcome_of(rules, [0, 1, 3])
    assert (outcome.rules, outcome.rate, outcome.optimizer, outcome.trainable) == (
        (0, 1, 3),
        1,
        0,
        3,
    )
    assert (outcome.decay, outcome.weight_decay) == (1, 0.5)
    nothing = outcome_of(rules, [])
    assert set(nothing.group) == {None, ()}
    # A rule that only selects another weight does not part two weights that learn alike.
    assert outcome_of(rules, [1]).group == outcome_of([*rules, rules[0]], [1]).group


def test_the_last_rule_wins_in_steps():
    """The same seen in what a step does: a rate, an optimizer, a decay from three rules."""
    weights = [variable(8.0, name) for name in ("a", "b", "c")]
    rules = [
        fg.Rule("a|b", learning_rate_multiplier=100.0, weight_decay=0.5),
        fg.Rule("b", learning_rate=0.5),
        fg.Rule("a", learning_rate_multiplier=2.0, optimizer=keras.optimizers.SGD(0.25)),
        fg.Rule("c", trainable=False),
    ]
    optimizer = fg.PerWeight(keras.optimizers.SGD(1.0), rules)
    # a: 8 − 0.5 · (0.5 · 8 + 1); b: the same at its absolute rate 0.5.
    assert moves(optimizer, weights) == [5.5, 5.5, 8.0]


class TestCumulative:
    """Multipliers that multiply what the rules before them say of the rate."""

    def test_a_product_by_hand(self):
        """A multiplier in place of the others ends what stood before it, and is multiplied on."""
        weights = [variable(0.0, name) for name in ("a", "b", "c", "d", "e")]
        rules = [
            fg.Rule("a|b", learning_rate_multiplier=0.5, cumulative=True),
            fg.Rule("a|c", learning_rate_multiplier=4.0, cumulative=True),
            fg.Rule("b", learning_rate_multiplier=8.0),
            fg.Rule("b|c", learning_rate_multiplier=3.0, cumulative=True),
            fg.Rule("d", learning_rate=0.25),
            fg.Rule("d|e", learning_rate_multiplier=2.0, cumulative=True),
            fg.Rule("e", optimizer=keras.optimizers.SGD(0.125)),
        ]
        optimizer = fg.PerWeight(keras.optimizers.SGD(1.0), rules)
        assert moves(optimizer, weights) == [-2.0, -24.0, -12.0, -0.5, -0.25]

    def test_a_schedule_goes_on_top(self):
        """A warm-up over all weights keeps the ratio of their rates."""
        weights = [variable(0.0, name) for name in ("a", "b")]
        rules = [
            fg.Rule("a", learning_rate_multiplier=0.5, cumulative=True),
            fg.Rule(".", learning_rate_multiplier=lambda step: (step + 1) / 2, cumulative=True),
        ]
        optimizer = fg.PerWeight(keras.optimizers.SGD(1.0), rules)
        assert moves(optimizer, weights, steps=2) == [-0.75, -1.5]

    def test_a_schedule_that_begins_at_zero_holds(self):
        """As a multiplier of 0 does: the moments of Adam do not advance meanwhile."""
        weight = variable(0.0, "a")
        rules = [fg.Rule("a", learning_rate_multiplier=lambda step: step // 2, cumulative=True)]
        optimizer = fg.PerWeight(keras.optimizers.Adam(0.5), rules)
        assert moves(optimizer, [weight], steps=2) == [0.0]
        assert moves(optimizer, [weight]) == pytest.approx([-0.5], rel=1e-5)

    def test_set_and_get(self):
        weights = [variable(0.0, name) for name in ("a", "b")]
        rules = [
            fg.Rule("a", learning_rate_multiplier=0.5, cumulative=True),
            fg.Rule(".", learning_rate_multiplier=2.0, cumulative=True, name="all"),
        ]
        optimizer = fg.PerWeight(keras.optimizers.SGD(1.0), rules)
        assert moves(optimizer, weights) == [-1.0, -2.0]
        optimizer.set("a", learning_rate_multiplier=0.25)
        assert optimizer.get("a")["learning_rate_multiplier"] == 0.25
        assert moves(optimizer, weights) == [-1.5, -4.0]
        with pytest.raises(ValueError, match="`trainable=True`"):
            optimizer.set("a", learning_rate_multiplier=0.0)

    def test_a_rule_that_another_replaces_cannot_be_set(self):
        rules = [
            fg.Rule("a", learning_rate_multiplier=0.5, cumulative=True),
            fg.Rule(".", learning_rate_multiplier=2.0, name="all"),
        ]
        optimizer = fg.PerWeight(keras.optimizers.SGD(1.0), rules)
        moves(optimizer, [variable(0.0, "a")])
        with pytest.raises(ValueError, match="would change nothing"):
            optimizer.set("a", learning_rate_multiplier=0.25)

    @pytest.mark.one_backend
    def test_config_and_repr(self):
        rule = fg.Rule("a", learning_rate_multiplier=0.5, cumulative=True)
        assert repr(rule) == "Rule('a', learning_rate_multiplier=0.5, cumulative=True)"
        again = through_json(rule)
        assert again.cumulative
        assert again.get_config() == rule.get_config()
        # Files of the first release know no cumulative rules.
        config = fg.Rule("a", learning_rate_multiplier=0.5).get_config()
        del config["cumulative"]
        assert not fg.Rule.from_config(config).cumulative

    @pytest.mark.one_backend
    def test_wrong_arguments(self):
        with pytest.raises(ValueError, match="say by what, with `learning_rate_multiplier`"):
            fg.Rule("a", learning_rate=0.5, cumulative=True)
        with pytest.raises(TypeError, match="`cumulative` should be True or False"):
            fg.Rule("a", learning_rate_multiplier=0.5, cumulative="yes")


@pytest.mark.one_backend
def test_the_nearest_paths_come_first():
    """A slip of the pen is answered with the path that was meant, and at most five paths."""
    paths = [f"encoder_{index}/kernel" for index in range(8)] + ["transitions"]
    rules = [fg.Rule("transistions", learning_rate_multiplier=1)]
    with pytest.raises(ValueError, match="selects no trainable weight") as error:
        select_weights(rules, map(weight, paths))
    message = str(error.value)
    assert "The nearest of this model's 9 trainable weights are: ['transitions', " in message
    assert message.count("encoder_") == 4


@pytest.mark.full
def test_the_guides_weights_without_decay():
    """By name: the biases of query, key and value have two axes, which a rule by shape misses."""
    page = Path(__file__).parents[2] / "docs" / "guide" / "migration.md"
    (pattern,) = re.findall(r'^NO_DECAY = r"(.*)"', page.read_text(encoding="utf-8"), re.MULTILINE)
    inputs = keras.Input((4, 6))
    x = keras.layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    x = keras.layers.RMSNormalization(name="rms")(keras.layers.LayerNormalization(name="norm")(x))
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    rules = [fg.Rule(pattern, weight_decay=0)]
    optimizer = fg.PerWeight(keras.optimizers.AdamW(weight_decay=0.1), rules)
    decaying = {row["path"] for row in optimizer.describe(model).to_dicts() if row["weight_decay"]}
    names = ("query", "key", "value", "attention_output")
    assert decaying == {*(f"attention/{name}/kernel" for name in names), "head/kernel"}
    assert sum(len(v.shape) > 1 for v in model.weights if v.path not in decaying) == 3
