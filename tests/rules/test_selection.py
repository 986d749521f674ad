"""Selection: which weights each kind of selector means, and what is said of one that means none."""

import re

import keras
import numpy as np
import pytest

import finegrain as fg
from finegrain.rules.rule import select_weights
from finegrain.rules.selection import checked_selectors, exactly, label, portable, select

pytestmark = pytest.mark.one_backend


def nested_model():
    """An `encoder` of two dense layers and a normalization, nested in a model with a `head`.

    The encoder has a layer `head`, too.
    """
    encoder = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name="hidden"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(3, name="head"),
        ],
        name="encoder",
    )
    inputs = keras.Input((4,))
    hidden = keras.layers.ReLU(name="relu")(encoder(inputs))
    hidden = keras.layers.Dropout(0.5, seed=1, name="dropout")(hidden)
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))


@pytest.fixture
def model():
    return nested_model()


def chosen(selector, variables):
    """Paths of the weights that a rule with `selector` selects; the paths are all different."""
    variables = list(variables)
    paths = [variable.path for variable in variables]
    assert len(set(paths)) == len(paths)
    rule = fg.Rule(selector, learning_rate_multiplier=2.0)
    selected = select_weights([rule], variables)
    return {path for path, indices in zip(paths, selected, strict=True) if indices}


def refusal(selector, variables):
    """The message of the error for a selector that means none of `variables`."""
    with pytest.raises(ValueError, match="The nearest of") as error:
        select_weights([fg.Rule(selector, learning_rate_multiplier=2.0)], variables)
    return str(error.value)


class TestSelectors:
    def test_expression(self, model):
        """An expression is searched in the path: the encoder's head has another path."""
        assert chosen("^head/", model.trainable_variables) == {"head/kernel", "head/bias"}
        assert chosen("bias$", model.trainable_variables) == {
            "encoder/hidden/bias",
            "encoder/head/bias",
            "head/bias",
        }

    def test_layer(self, model):
        """A layer selects its own weights, not those of another layer of its name."""
        assert chosen(model.get_layer("head"), model.trainable_variables) == {
            "head/kernel",
            "head/bias",
        }
        inner = model.get_layer("encoder").get_layer("head")
        assert chosen(inner, model.trainable_variables) == {
            "encoder/head/kernel",
            "encoder/head/bias",
        }

    def test_layers_of_one_path_are_told_apart(self):
        """Functional models give no name of theirs to paths: the object decides all the same."""
        inner = []
        for _ in range(2):
            inputs = keras.Input((2,))
            inner.append(keras.Model(inputs, keras.layers.Dense(2, name="same")(inputs)))
        inputs = keras.Input((2,))
        model = keras.Model(inputs, inner[1](inner[0](inputs)))
        paths = [variable.path for variable in model.trainable_variables]
        assert paths == ["same/kernel", "same/bias"] * 2
        rule = fg.Rule(inner[1].get_layer("same"), learning_rate_multiplier=2.0)
        assert select_weights([rule], model.trainable_variables) == [(), (), (0,), (0,)]

    def test_nested_model(self, model):
        """A nested model selects the weights of all its layers."""
        assert chosen(model.get_layer("encoder"), model.trainable_variables) == {
            variable.path
            for variable in model.trainable_variables
            if variable.path.startswith("encoder/")
        }

    def test_whole_model(self, model):
        """The model itself selects all its weights."""
        assert len(chosen(model, model.trainable_variables)) == len(model.trainable_variables) == 8

    def test_a_layer_that_is_frozen_in_part(self, model):
        """Of a model with a frozen layer the rest is selected."""
        encoder = model.get_layer("encoder")
        encoder.get_layer("hidden").trainable = False
        assert chosen(encoder, model.trainable_variables) == {
            "encoder/norm/gamma",
            "encoder/norm/beta",
            "encoder/head/kernel",
            "encoder/head/bias",
        }

    def test_variable(self, model):
        """A variable selects itself, by identity: another one of its path is not meant."""
        assert chosen(model.get_layer("head").bias, model.trainable_variables) == {"head/bias"}
        namesakes = [keras.Variable(np.zeros(2), name="w") for _ in range(2)]
        rule = fg.Rule(namesakes[1], learning_rate_multiplier=2.0)
        assert select_weights([rule], namesakes) == [(), (0,)]

    def test_function(self, model):
        """A function of the variable says which, by a bool of Python or of NumPy."""
        kernels = {"encoder/hidden/kernel", "encoder/head/kernel", "head/kernel"}
        weights = model.trainable_variables
        assert chosen(lambda variable: len(variable.shape) == 2, weights) == kernels
        assert chosen(lambda variable: np.bool_(len(variable.shape) == 2), weights) == kernels

    def test_list_of_all_kinds(self, model):
        """Any selector of a list selects."""
        encoder = model.get_layer("encoder")
        mixed = [
            "^head/bias$",
            encoder.get_layer("head"),
            encoder.get_layer("norm").gamma,
            lambda variable: variable.path == "encoder/hidden/bias",
        ]
        expected = {
            "head/bias",
            "encoder/head/kernel",
            "encoder/head/bias",
            "encoder/norm/gamma",
            "encoder/hidden/bias",
        }
        assert chosen(mixed, model.trainable_variables) == expected
        assert chosen(tuple(mixed), model.trainable_variables) == expected

    def test_indices_are_in_the_order_of_the_rules(self, model):
        """All rules that select a weight, in their order."""
        rules = [
            fg.Rule("bias", trainable=False),
            fg.Rule(model, weight_decay=0.5),
            fg.Rule("^head", trainable=True),
        ]
        selected = dict(
            zip(
                [variable.path for variable in model.trainable_variables],
                select_weights(rules, model.trainable_variables),
                strict=True,
            )
        )
        assert selected["head/bias"] == (0, 1, 2)
        assert selected["head/kernel"] == (1, 2)
        assert selected["encoder/hidden/kernel"] == (1,)


class TestNothingSelected:
    def test_expression(self, model):
        """The message has the rule, the expression, the nearest paths and the cure."""
        message = refusal("hed/kernel", model.trainable_variables)
        assert message.startswith("Rule('hed/kernel', learning_rate_multiplier=2.0): ")
        assert "the expression 'hed/kernel' selects no trainable weight" in message
        assert "The nearest of this model's 8 trainable weights are: ['head/kernel', " in message
        assert "Correct the selector" in message
        listed = re.search(r"weights are: \[(.*)\]", message).group(1).split(", ")
        assert len(listed) == 5

    def test_function(self, model):
        """A function is called by its name."""

        def is_a_scalar(variable):
            return variable.shape == ()

        message = refusal(is_a_scalar, model.trainable_variables)
        assert "the function is_a_scalar selects no trainable weight" in message

    def test_variable_of_another_model(self, model):
        """A variable that the optimizer does not move, here a moving average, cannot learn."""
        mean = model.get_layer("encoder").get_layer("norm").moving_mean
        message = refusal(mean, model.trainable_variables)
        assert (
            "the variable 'encoder/norm/moving_mean' is not a trainable weight of this model"
            in message
        )

    def test_layer_of_another_model(self, model):
        """A layer with the right name in the wrong model."""
        message = refusal(nested_model().get_layer("head"), model.trainable_variables)
        assert "the layer 'head' is not part of this model" in message
        assert "'head/kernel'" in message

    def test_layer_that_is_not_built(self, model):
        """A layer without weights yet: the cure is to build it."""
        message = refusal(keras.layers.Dense(2, name="late"), model.trainable_variables)
        assert "the layer 'late' has no weights yet: build it first" in message

    def test_frozen_layer(self, model):
        """A layer of which all weights are frozen: the cure is to release them."""
        model.get_layer("encoder").trainable = False
        message = refusal(model.get_layer("encoder"), model.trainable_variables)
        assert "the layer 'encoder' has no trainable weight: set `trainable = True`" in message

    def test_built_layer_without_weights(self, model):
        """Building it will not help."""
        assert "build it first" not in refusal(model.get_layer("relu"), model.trainable_variables)

    def test_layer_with_nothing_but_a_seed(self, model):
        """Releasing it will not help: a dropout layer has a seed, but no weights."""
        message = refusal(model.get_layer("dropout"), model.trainable_variables)
        assert "set `trainable = True`" not in message

    def test_one_idle_selector_of_a_list(self, model):
        """Each selector of a list has to mean something, whatever the others mean."""
        late = keras.layers.Dense(2, name="late")
        for idle, said in [
            ("nowhere", "the expression 'nowhere'"),
            (late, "the layer 'late'"),
            (keras.Variable(0.0, name="stray"), "the variable 'stray'"),
        ]:
            assert said in refusal(["head", idle], model.trainable_variables)

    def test_the_first_idle_rule_is_named(self, model):
        """With several rules the message tells which one is wrong."""
        rules = [fg.Rule("head", weight_decay=0.5), fg.Rule("nowhere", weight_decay=0.25)]
        with pytest.raises(ValueError, match=r"^Rule\('nowhere', weight_decay=0.25\): "):
            select_weights(rules, model.trainable_variables)

    def test_it_comes_early(self, model):
        """The error is raised where the weights are first known."""
        optimizer = fg.PerWeight("sgd", [fg.Rule("nowhere", trainable=False)])
        model.compile(optimizer, "mse")
        for attempt in (
            lambda: optimizer.describe(model),
            lambda: optimizer.build(model.trainable_variables),
            lambda: model.fit(np.ones((2, 4)), np.ones((2, 2)), verbose=0),
        ):
            with pytest.raises(ValueError, match="'nowhere' selects no trainable weight"):
                attempt()


class TestFunctions:
    @pytest.mark.parametrize("answer", [None, 1, 0, "yes", [True]])
    def test_no_bool(self, model, answer):
        """An answer that is no bool shows what it was, from which function, for which weight."""

        def unsure(variable):
            return answer

        rule = fg.Rule(unsure, learning_rate_multiplier=2.0)
        said = f"return True or False. Received: {answer!r} from unsure for 'encoder/hidden/kernel'"
        with pytest.raises(TypeError, match=re.escape(said)):
            select_weights([rule], model.trainable_variables)

    def test_a_match_object_is_no_bool(self, model):
        """`re.search` returns a match: the function should say what it means."""
        with pytest.raises(TypeError, match="return True or False"):
            select(lambda variable: re.search("head", variable.path), model.trainable_variables[4:])

    def test_a_class_is_no_selector(self, model):
        """`Dense` for "all dense layers" is refused with a message about selectors."""
        with pytest.raises(TypeError, match=r"A Rule selects weights by|A function that selects"):
            select_weights(
                [fg.Rule(keras.layers.Dense, trainable=False)], model.trainable_variables
            )


class TestCheckedSelectors:
    @pytest.mark.parametrize(
        "bad",
        [
            None,
            3,
            b"head",
            ["head", 3],
            {"head": 1},
            {"head"},
            ["a", ["b"]],
            np.zeros(2),
            re.compile("head"),
        ],
        ids=repr,
    )
    def test_what_selects_nothing(self, bad):
        """The message shows the right forms and what was received."""
        with pytest.raises(TypeError, match=re.escape(f"Received: weights={bad!r}")) as error:
            checked_selectors(bad)
        assert "Rule('crf', ...)" in str(error.value)

    @pytest.mark.parametrize("bad", ["", [], (), ["head", ""]])
    def test_empty(self, bad):
        """An empty expression would select everything by accident: '.' does so on purpose."""
        with pytest.raises(ValueError, match=r"use '\.' for all weights.*Received: weights="):
            checked_selectors(bad)
        assert checked_selectors(".") == ["."]

    @pytest.mark.parametrize("bad", ["(", "*a", "[a", ["fine", "a**"]])
    def test_malformed_expressions(self, bad):
        """The message has Python's complaint and the expression."""
        with pytest.raises(ValueError, match=r"valid regular expression, but .* at position") as e:
            checked_selectors(bad)
        wrong = bad if isinstance(bad, str) else bad[-1]
        assert str(e.value).endswith(f"Received: weights={wrong!r}")


class TestPortable:
    def test_expressions_stay(self):
        """An expression stands for itself."""
        assert portable(r"bias$|norm") == r"bias$|norm"

    def test_exactly(self):
        """Just these paths, also where one begins, ends or lies like another."""
        pattern = exactly(["a/b.c", "a+b"])
        assert [bool(re.search(pattern, path)) for path in ("a/b.c", "a+b")] == [True, True]
        for other in ("a/bxc", "x/a/b.c", "a/b.c/d", "aab", "a+b+", "a/b.c|a+b"):
            assert not re.search(pattern, other)
        assert exactly(["a", "b", "a"]) == exactly(["a", "b"])

    @pytest.mark.parametrize("kind", ["layer", "nested model", "variable"])
    def test_objects_become_exact_paths(self, model, kind):
        """What a layer, model or variable selects, its expression selects, and no more."""
        selector = {
            "layer": model.get_layer("head"),
            "nested model": model.get_layer("encoder"),
            "variable": model.get_layer("head").kernel,
        }[kind]
        pattern = portable(selector)
        assert isinstance(pattern, str)
        weights = model.trainable_variables
        assert select(pattern, weights) == select(selector, weights)
        # The encoder's layer of the same name is not meant.
        assert not re.search(pattern, "other/head/kernel")

    def test_a_layer_that_is_not_built(self):
        """It goes by its name, as a whole part of the path."""
        pattern = portable(keras.layers.Dense(2, name="he.ad"))
        paths = ("he.ad/kernel", "a/he.ad/bias", "he.ad", "hexad/kernel", "my_he.ad/x", "he.ad2/x")
        assert [bool(re.search(pattern, path)) for path in paths] == [True] * 3 + [False] * 3

    def test_labels(self, model):
        """Tables call an expression, layer, variable or function by its own name."""

        def small(variable):
            return True

        assert label("bias$") == "bias$"
        assert label(model.get_layer("encoder")) == "encoder"
        assert label(model.get_layer("head").bias) == "head/bias"
        assert label(small) == "small"
