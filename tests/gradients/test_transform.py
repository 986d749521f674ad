"""Transforms at work under PerWeight: order, state of their own, sparse gradients."""

import keras
import numpy as np
import pytest
from keras import ops

import drawn
import finegrain as fg
from covering import covering
from gradients.contract import TRANSFORMS, Momentum, array, as_variables


def plus(number):
    """A function that adds a number to each gradient."""
    return lambda gradients: [gradient + number for gradient in gradients]


def stepped(optimizer, weights, *gradients):
    """The weights after a step for each of `gradients`, as plain numbers."""
    for given in gradients:
        optimizer.apply([ops.convert_to_tensor(np.array(g, "float32")) for g in given], weights)
    return [array(weight).tolist() for weight in weights]


class TestOrder:
    def test_rules_and_lists(self):
        """Within a rule from left to right, then rule by rule, whatever the other wins are."""
        weights = as_variables([np.zeros(1), np.zeros(1)])
        rules = [
            fg.Rule("w", gradient=[plus(1.0), fg.gradients.Scale(2.0)]),
            fg.Rule("w1", learning_rate_multiplier=1.0),
            fg.Rule("w0", gradient=plus(3.0)),
            fg.Rule(".", gradient=fg.gradients.Scale(10.0)),
        ]
        optimizer = fg.PerWeight(keras.optimizers.SGD(1.0), rules)
        # (1 + 1) · 2 + 3 = 7 and (2 + 1) · 2 = 6, times 10.
        assert stepped(optimizer, weights, [[1.0], [2.0]]) == [[-70.0], [-60.0]]

    def test_variables_come_in_the_order_of_the_model(self):
        """Not in the order of the call, nor of a list of selectors; and only the selected ones."""
        seen = []

        def look(gradients, variables):
            seen.append([variable.path for variable in variables])
            return gradients

        weights = as_variables([np.zeros(1)] * 3)
        optimizer = fg.PerWeight("sgd", [fg.Rule(["w2", "w0"], gradient=look)])
        optimizer.build(weights)
        stepped(optimizer, weights[::-1], [[1.0]] * 3)
        assert seen == [["w0", "w2"]]

    def test_gradients_come_with_their_weights(self):
        """Also where the step hands them over in another order."""
        weights = as_variables([np.zeros(1)] * 3)
        optimizer = fg.PerWeight(keras.optimizers.SGD(1.0), [fg.Rule("w0|w2", gradient=plus(0.5))])
        optimizer.build(weights)
        stepped(optimizer, weights[::-1], [[1.0], [2.0], [3.0]])
        assert [array(weight).tolist() for weight in weights] == [[-3.5], [-2.0], [-1.5]]

    @pytest.mark.parametrize(
        ("clipping", "expected"),
        [
            ({"clipvalue": 5.0}, [[-5.0, -5.0], [-1.0]]),
            ({"clipnorm": 5.0}, [[-3.0, -4.0], [-1.0]]),
            ({"global_clipnorm": 5.0}, [[-30 / 10.2, -40 / 10.2], [-2 / 10.2 * 5 / 5]]),
        ],
    )
    def test_before_the_clipping_of_the_optimizer(self, clipping, expected):
        """Gradient (3, 4), ten times, is clipped: not 3, 4, clipped and then ten times."""
        weights = as_variables([np.zeros(2), np.zeros(1)])
        rules = [fg.Rule("w0", gradient=fg.gradients.Scale(10.0))]
        optimizer = fg.PerWeight(keras.optimizers.SGD(1.0, **clipping), rules)
        other = 1.0
        if "global_clipnorm" in clipping:
            size = np.sqrt(30.0**2 + 40.0**2 + other**2)
            expected = [[-30 * 5 / size, -40 * 5 / size], [-5 / size]]
        results = stepped(optimizer, weights, [[3.0, 4.0], [other]])
        for result, reference in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, reference, rtol=1e-5)

    def test_after_accumulation(self):
        """Three gradients are averaged, then clipped: mean(3, −9, 0) = −2 becomes −1."""
        weights = as_variables([np.zeros(1)])
        optimizer = fg.PerWeight(
            keras.optimizers.SGD(1.0, gradient_accumulation_steps=3),
            [fg.Rule("w0", gradient=fg.gradients.ClipValue(1.0))],
        )
        assert stepped(optimizer, weights, [[3.0]], [[-9.0]]) == [[0.0]]
        assert stepped(optimizer, weights, [[0.0]]) == [[1.0]]

    def test_after_unscaling(self):
        """Under dynamic loss scaling a bound of 1 bounds the true gradients, 0.25 and 1.5."""
        keras.config.set_dtype_policy("mixed_float16")
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="head")
        model = keras.Sequential([keras.Input((2,)), layer])
        rule = fg.Rule("head", gradient=fg.gradients.ClipValue(1.0))
        model.compile(
            fg.PerWeight(keras.optimizers.SGD(1.0), [rule]), lambda y, prediction: prediction
        )
        model.fit(np.array([[0.25, 1.5]]), np.zeros((1, 1)), verbose=0)
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert array(layer.kernel).tolist() == [[-0.25], [-1.0]]

    def test_held_weights_of_a_rule_do_not_count_in_its_norm(self):
        """ClipNorm over a rule is over what moves."""
        weights = as_variables([np.zeros(2), np.zeros(2)])
        rules = [
            fg.Rule(".", gradient=fg.gradients.ClipNorm(1.0, per="rule")),
            fg.Rule("w1", trainable=False),
        ]
        optimizer = fg.PerWeight(keras.optimizers.SGD(1.0), rules)
        results = stepped(optimizer, weights, [[3.0, 4.0], [1e6, 1e6]])
        np.testing.assert_allclose(results, [[-0.6, -0.8], [0.0, 0.0]], rtol=1e-6)

    def test_weight_decay_is_no_gradient(self):
        """Zero gradients let decay and momentum go on."""
        weights = as_variables([np.full(1, 8.0)])
        rule = fg.Rule("w0", gradient=fg.gradients.Zero())
        optimizer = fg.PerWeight(keras.optimizers.SGD(0.5, weight_decay=0.5), [rule])
        assert stepped(optimizer, weights, [[1.0]]) == [[6.0]]


def momentum(rules, weights=None):
    """SGD at rate 1 under `rules`, and the weights that it is built with."""
    optimizer = fg.PerWeight(keras.optimizers.SGD(1.0), rules)
    weights = as_variables([np.zeros(1), np.zeros(1)]) if weights is None else weights
    optimizer.build(weights)
    return optimizer, weights


class TestState:
    def test_by_hand(self):
        """Sums 1, 1.5, 1.75 are taken off one after another; the other weight has its own."""
        optimizer, weights = momentum([fg.Rule(".", gradient=Momentum(0.5))])
        results = stepped(optimizer, weights, *[[[1.0], [2.0]]] * 3)
        assert results == [[-4.25], [-8.5]]

    @pytest.mark.parametrize(
        "others",
        [
            [fg.Rule("w", gradient=Momentum(), name="sums")],
            [fg.Rule("w1", trainable=True), fg.Rule("w0|w1", gradient=[Momentum()], name="sums")],
            [
                fg.Rule("w1", learning_rate_multiplier=1.0, gradient=fg.gradients.Scale(1.0)),
                fg.Rule("w", gradient=[Momentum(), fg.gradients.Noise(0.0)], name="sums"),
            ],
        ],
        ids=["the same", "other groups", "other transforms"],
    )
    @pytest.mark.filterwarnings("ignore:The saved state lacks:UserWarning")
    def test_resumes_under_other_rules(self, others):
        """The state follows the weights and the rule's name: the run goes on by hand."""
        first, weights = momentum([fg.Rule("w", gradient=Momentum(), name="sums")])
        stepped(first, weights, *[[[1.0], [2.0]]] * 2)
        store = {}
        first.save_own_variables(store)
        second, weights = momentum(others)
        second.load_own_variables(store)
        assert stepped(second, weights, [[1.0], [2.0]]) == [[-1.75], [-3.5]]
        steps = [t.steps for *_, t in second._partition.transforms if isinstance(t, Momentum)]
        assert [int(array(count)) for count in steps] == [3]

    def test_new_weights_begin_anew(self):
        """A rule that selects more weights than before: theirs is named in a warning."""
        first, weights = momentum([fg.Rule("w0", gradient=Momentum(), name="sums")])
        stepped(first, weights, *[[[1.0], [2.0]]] * 2)
        store = {}
        first.save_own_variables(store)
        second, weights = momentum([fg.Rule("w", gradient=Momentum(), name="sums")])
        with pytest.warns(UserWarning, match=r"lacks 1 of .*'w1:gradient:sums:0:sum'"):
            second.load_own_variables(store)
        assert stepped(second, weights, [[1.0], [2.0]]) == [[-1.75], [-2.0]]

    def test_names_that_differ_in_a_slash(self):
        """`w0/w1` and `w0|w1` are two rules."""
        rules = [
            fg.Rule("w0", gradient=Momentum(0.5), name="w0/w1"),
            fg.Rule("w1", gradient=[Momentum(0.5)], name="w0|w1"),
            fg.Rule("w", gradient=fg.gradients.Noise(0.0, seed=1), name="a/b"),
            fg.Rule("w", gradient=fg.gradients.Noise(0.0, seed=2), name="a|b"),
        ]
        first, weights = momentum(rules)
        stepped(first, weights, [[1.0], [2.0]])
        store = {}
        first.save_own_variables(store)
        second, _ = momentum(rules)
        second.load_own_variables(store)
        for mine, theirs in zip(first.variables, second.variables, strict=True):
            np.testing.assert_array_equal(array(mine), array(theirs))

    def test_state_is_among_the_variables(self):
        """`variables` and `set_weights` have it, each once."""
        first, weights = momentum([fg.Rule("w", gradient=Momentum())])
        stepped(first, weights, [[1.0], [2.0]])
        second, others = momentum([fg.Rule("w", gradient=Momentum())])
        assert len({id(v) for v in first.variables}) == len(first.variables)
        second.set_weights([ops.convert_to_numpy(v.value) for v in first.variables])
        assert stepped(second, others, [[1.0], [2.0]]) == [[-1.5], [-3.0]]

    def test_a_dropped_step_leaves_it(self):
        """With `nonfinite="skip"` the state of a transform is as it was before the step."""
        weights = as_variables([np.zeros(1)])
        optimizer = fg.PerWeight(
            keras.optimizers.SGD(1.0), [fg.Rule("w0", gradient=Momentum())], nonfinite="skip"
        )
        assert stepped(optimizer, weights, [[1.0]], [[np.nan]]) == [[-1.0]]
        assert optimizer.skipped_steps == 1
        assert stepped(optimizer, weights, [[1.0]]) == [[-2.5]]


def lookups(*, one_hot):
    """A table of ten rows for each transform, read by looking up or by a product."""
    tokens = keras.Input((3,), dtype="int32")
    rows = []
    for name in TRANSFORMS:
        if one_hot:
            encoded = ops.one_hot(tokens, 10)
            row = keras.layers.Dense(4, use_bias=False, name=name)(encoded)
        else:
            row = keras.layers.Embedding(10, 4, name=name)(tokens)
        rows.append(row)
    model = keras.Model(tokens, keras.layers.Flatten()(keras.layers.Add()(rows)))
    random = drawn.generator(1)
    model.set_weights([random.normal(size=w.shape).astype("float32") for w in model.get_weights()])
    return model


@pytest.mark.full
@pytest.mark.parametrize(
    ("shared", "jit"),
    covering([{}, {"global_clipnorm": 1.0, "gradient_accumulation_steps": 2}], [False, True]),
)
def test_embeddings(shared, jit, backend):
    """Sparse gradients, as embeddings have on TensorFlow, are changed as dense ones are."""
    if backend == "torch" and jit:
        pytest.skip("Keras compiles for torch with Dynamo only on request")
    # Some rows are looked up twice, some never.
    tokens = np.array([[1, 1, 2], [3, 1, 0], [5, 5, 5], [2, 7, 1]])
    targets = drawn.generator(2).normal(size=(4, 12))
    models = []
    for one_hot in (True, False):
        model = lookups(one_hot=one_hot)
        rules = [fg.Rule(f"^{name}/", gradient=make()) for name, make in TRANSFORMS.items()]
        optimizer = fg.PerWeight(keras.optimizers.SGD(0.05, **shared), rules)
        model.compile(optimizer, "mse", jit_compile=jit)
        model.fit(tokens, targets, batch_size=1, epochs=1, shuffle=False, verbose=0)
        models.append(model)
    start = lookups(one_hot=True)
    for before, product, lookup in zip(
        start.weights, *(model.weights for model in models), strict=True
    ):
        np.testing.assert_allclose(array(lookup), array(product), 1e-3, 1e-5, err_msg=lookup.path)
        assert np.array_equal(array(before), array(lookup)) == lookup.path.startswith("zero/")
