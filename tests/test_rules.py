"""Rules: what they accept, and which weights they select."""

import json
import re
from types import SimpleNamespace

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

import finegrain as fg
from finegrain.rules import check_rules_select, rules_of


def weight(path):
    """Anything with a path can be selected."""
    return SimpleNamespace(path=path, shape=(2, 3))


class TestRule:
    def test_searches_in_the_path(self):
        """An expression is found anywhere in the path, unless it says otherwise."""
        rule = fg.Rule("crf", learning_rate_multiplier=10)
        assert rule.selects(weight("tagger/crf/transitions"))
        assert rule.selects(weight("crf_2/start"))
        assert not rule.selects(weight("tagger/CRF/transitions"))
        assert not fg.Rule("^crf", learning_rate_multiplier=1).selects(weight("tagger/crf/end"))
        assert fg.Rule("bias$", learning_rate_multiplier=1).selects(weight("dense/bias"))
        assert not fg.Rule("bias$", learning_rate_multiplier=1).selects(weight("bias/dense"))

    def test_a_list_selects_what_any_of_it_selects(self):
        """The expressions of a list are alternatives."""
        rule = fg.Rule(["a/", "c$"], learning_rate_multiplier=1)
        assert [rule.selects(weight(path)) for path in ("a/b", "b/c", "a/c", "b/b")] == [
            True,
            True,
            True,
            False,
        ]

    def test_a_variable_of_keras(self):
        """`variable.path` is what is searched."""
        layer = keras.layers.Dense(1, name="head")
        layer.build((None, 2))
        rule = fg.Rule("head/kernel", learning_rate_multiplier=1)
        assert [rule.selects(variable) for variable in layer.weights] == [True, False]

    def test_name(self):
        """By default the expressions, in their order."""
        assert fg.Rule("head", learning_rate_multiplier=1).name == "head"
        assert fg.Rule(["b", "a"], learning_rate_multiplier=1).name == "b, a"
        assert fg.Rule("head", learning_rate_multiplier=1, name="top").name == "top"

    def test_repr(self):
        """It shows what was asked for."""
        rule = fg.Rule(("a", "b"), learning_rate_multiplier=2)
        assert repr(rule) == "Rule(['a', 'b'], learning_rate_multiplier=2.0)"
        assert repr(fg.Rule("a", learning_rate_multiplier=2)) == (
            "Rule('a', learning_rate_multiplier=2.0)"
        )

    @pytest.mark.parametrize("weights", ["bias$", ["a", "b"], ("a", "b")])
    @pytest.mark.parametrize("name", [None, "mine"])
    def test_config_round_trip(self, weights, name):
        """A rule made from the config, by way of JSON, is the same rule."""
        rule = fg.Rule(weights, learning_rate_multiplier=0.5, name=name)
        again = fg.Rule.from_config(json.loads(json.dumps(rule.get_config())))
        assert again.get_config() == rule.get_config()
        assert (again.patterns, again.name, again.learning_rate_multiplier) == (
            rule.patterns,
            rule.name,
            0.5,
        )
        by_keras = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rule))
        assert isinstance(by_keras, fg.Rule)
        assert by_keras.get_config() == rule.get_config()

    @pytest.mark.parametrize("multiplier", [0, 0.0, 1, 1e-3, 1e4])
    def test_multipliers(self, multiplier):
        """A multiplier is kept as a float."""
        kept = fg.Rule("a", learning_rate_multiplier=multiplier).learning_rate_multiplier
        assert type(kept) is float
        assert kept == multiplier

    @pytest.mark.parametrize("bad", [-1e-9, -1, float("nan"), float("inf"), -float("inf")])
    def test_bad_multipliers(self, bad):
        """Negative and not finite: the message has what is expected and what was received."""
        message = f"finite number >= 0. Received: learning_rate_multiplier={bad!r}"
        with pytest.raises(ValueError, match=re.escape(message)):
            fg.Rule("a", learning_rate_multiplier=bad)

    @pytest.mark.parametrize(
        "bad",
        [
            "fast",
            [1.0, 2.0],
            1j,
            "0.5",
        ],
    )
    def test_multipliers_that_are_no_numbers(self, bad):
        """What is no number is a TypeError that shows it."""
        message = f"finite number >= 0. Received: learning_rate_multiplier={bad!r}"
        with pytest.raises(TypeError, match=re.escape(message)):
            fg.Rule("a", learning_rate_multiplier=bad)

    def test_a_rule_that_sets_nothing(self):
        """It would do nothing: an error that says what to give."""
        with pytest.raises(ValueError, match=r"give `learning_rate_multiplier`.*Rule\('head'\)"):
            fg.Rule("head")

    @pytest.mark.parametrize("bad", [None, 3, b"head", ["head", 3], {"head": 1}, ["a", ["b"]]])
    def test_weights_that_are_no_expressions(self, bad):
        """The message shows the right form and what was received."""
        with pytest.raises(TypeError, match=re.escape(f"Received: weights={bad!r}")):
            fg.Rule(bad, learning_rate_multiplier=1.0)

    @pytest.mark.parametrize("bad", ["", [], (), ["head", ""]])
    def test_empty_expressions(self, bad):
        """An empty expression would select everything by accident: '.' does so on purpose."""
        with pytest.raises(ValueError, match=r"use '\.' for all weights"):
            fg.Rule(bad, learning_rate_multiplier=1.0)
        assert fg.Rule(".", learning_rate_multiplier=1.0).selects(weight("a/b"))

    @pytest.mark.parametrize("bad", ["(", "*a", "[a", ["fine", "a**"]])
    def test_malformed_expressions(self, bad):
        """The message has Python's complaint and the expression."""
        with pytest.raises(ValueError, match=r"valid regular expression, but .* at position") as e:
            fg.Rule(bad, learning_rate_multiplier=1.0)
        assert repr(bad if isinstance(bad, str) else bad[-1]) in str(e.value)

    def test_arguments_are_named(self):
        """The multiplier is given by name, so that a rule reads by itself."""
        with pytest.raises(TypeError):
            fg.Rule("a", 1.0)


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


RULE_SETS = st.lists(
    st.tuples(
        st.lists(expressions(), min_size=1, max_size=2),
        st.sampled_from([0.0, 0.125, 0.5, 1.0, 2.0, 1024.0]),
    ),
    max_size=5,
)


def made(rule_set):
    return [
        fg.Rule(
            [pattern for pattern, _ in alternatives],
            learning_rate_multiplier=multiplier,
            name=f"rule {index}",
        )
        for index, (alternatives, multiplier) in enumerate(rule_set)
    ]


@given(RULE_SETS, st.lists(PATHS, min_size=1, max_size=6))
def test_rules_of_lists_the_rules_that_select(rule_set, paths):
    """All rules that select a weight, in their order, and no other."""
    rules = made(rule_set)
    for path in paths:
        expected = [
            index
            for index, (alternatives, _) in enumerate(rule_set)
            if any(means(path) for _, means in alternatives)
        ]
        assert list(rules_of(rules, weight(path))) == expected


@given(RULE_SETS, st.lists(PATHS, min_size=1, max_size=6))
def test_every_expression_selects_something(rule_set, paths):
    """An error for the first expression that selects no weight, and for nothing else."""
    idle = [
        pattern
        for alternatives, _ in rule_set
        for pattern, means in alternatives
        if not any(means(path) for path in paths)
    ]
    if idle:
        with pytest.raises(ValueError, match=re.escape(f"expression {idle[0]!r} selects no ")):
            check_rules_select(made(rule_set), map(weight, paths))
    else:
        check_rules_select(made(rule_set), map(weight, paths))


@given(RULE_SETS, st.lists(PATHS, min_size=1, max_size=6))
def test_the_last_rule_wins(rule_set, paths):
    """What PerWeight makes of a set of rules is what the last rule of each weight says."""
    # An expression that selects nothing is an error: leave it out.
    rule_set = [
        (kept, multiplier)
        for alternatives, multiplier in rule_set
        if (kept := [e for e in alternatives if any(e[1](path) for path in paths)])
    ]
    model = SimpleNamespace(trainable_variables=[weight(path) for path in paths])
    described = fg.PerWeight("sgd", made(rule_set)).describe(model).to_dicts()
    for path, row in zip(paths, described, strict=True):
        outcome, names = 1.0, []
        for index, (alternatives, multiplier) in enumerate(rule_set):
            if any(means(path) for _, means in alternatives):
                outcome = multiplier
                names.append(f"rule {index}")
        assert row["learning_rate_multiplier"] == outcome
        assert list(row["rules"]) == names


def test_the_nearest_paths_come_first():
    """A slip of the pen is answered with the path that was meant, and at most five paths."""
    paths = [f"encoder_{index}/kernel" for index in range(8)] + ["transitions"]
    with pytest.raises(ValueError, match="selects no trainable weight") as error:
        check_rules_select(
            [fg.Rule("transistions", learning_rate_multiplier=1)], map(weight, paths)
        )
    message = str(error.value)
    assert "the nearest of 9 are: ['transitions', " in message
    assert message.count("encoder_") == 4
