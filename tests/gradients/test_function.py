"""Any function as a transform."""

import functools
import re

import keras
import numpy as np
import pytest
from keras import ops

import finegrain as fg
from finegrain.gradients import Function
from gradients.contract import add_weights, applied, array


def step(gradient, arrays=((0.0, 0.0), (0.0,)), names=("kernel", "bias"), **arguments):
    """What one step of SGD at rate 1 with gradients of 1 makes of weights under a rule."""
    weights = [
        keras.Variable(np.array(a, "float32"), name=n) for a, n in zip(arrays, names, strict=True)
    ]
    rule = fg.Rule(".", gradient=gradient, **arguments)
    optimizer = fg.PerWeight(keras.optimizers.SGD(1.0), [rule])
    optimizer.apply([ops.ones(np.shape(a)) for a in arrays], weights)
    return [array(weight).tolist() for weight in weights]


class Doubling:
    """An object that can be called."""

    def __call__(self, gradients):
        return [2.0 * gradient for gradient in gradients]

    def method(self, gradients, variables):
        return [3.0 * gradient for gradient in gradients]


class TestForms:
    def test_one_argument(self):
        """A function of the gradients alone."""
        assert step(lambda gradients: [g * 3 for g in gradients]) == [[-3.0, -3.0], [-3.0]]

    def test_two_arguments(self):
        """A function of gradients and weights: by a weight's path, by its value."""

        def biases_only(gradients, variables):
            return [
                g if v.path.endswith("bias") else 0 * g
                for g, v in zip(gradients, variables, strict=True)
            ]

        assert step(biases_only) == [[0.0, 0.0], [-1.0]]
        weights = [np.array([8.0, -8.0]), np.array(16.0)]
        results = applied(Function(add_weights), [np.ones(2), np.array(1.0)], weights)
        assert [result.tolist() for result in results] == [[2.0, 0.0], 3.0]

    def test_all_gradients_together(self):
        """What is done to one may depend on another."""

        def shared_mean(gradients):
            mean = sum(ops.mean(gradient) for gradient in gradients) / len(gradients)
            return [ops.ones_like(gradient) * mean for gradient in gradients]

        results = applied(Function(shared_mean), [np.array([1.0, 3.0]), np.array([4.0])])
        assert [result.tolist() for result in results] == [[3.0, 3.0], [3.0]]

    @pytest.mark.parametrize(
        ("fn", "expected"),
        [
            (Doubling(), -2.0),
            (Doubling().method, -3.0),
            (functools.partial(lambda gradients, by: [by * g for g in gradients], by=4.0), -4.0),
            (lambda *both: [5.0 * g for g in both[0]], -5.0),
        ],
        ids=["object", "method", "partial", "any number of arguments"],
    )
    def test_callables(self, fn, expected):
        """Whatever can be called with one or two arguments."""
        assert step(fn) == [[expected] * 2, [expected]]

    def test_an_option_is_no_second_argument(self):
        """A function of the gradients with an option of its own keeps its default."""

        def scaled(gradients, factor=2.0):
            return [factor * gradient for gradient in gradients]

        assert step(scaled) == [[-2.0, -2.0], [-2.0]]

    @pytest.mark.parametrize("bad", [lambda: None, lambda a, b, c: a, lambda gradients, *, by: 0])
    def test_other_numbers_of_arguments(self, bad):
        """Known when the rule is made."""
        with pytest.raises(TypeError, match=r"take `\(gradients, variables\)` or `\(gradients\)`"):
            fg.Rule("w", gradient=bad)

    @pytest.mark.parametrize("bad", [None, 3, "relu"])
    def test_what_cannot_be_called(self, bad):
        """What is expected and what was received."""
        message = f"`(gradients, variables)` or `(gradients)`. Received: fn={bad!r}"
        with pytest.raises(TypeError, match=re.escape(message)):
            Function(bad)


class TestResults:
    @pytest.mark.parametrize(
        ("fn", "received"),
        [
            (lambda gradients: gradients[:1], "1"),
            (lambda gradients: [*gradients, gradients[0]], "3"),
            (lambda gradients: None, "NoneType"),
            (lambda gradients: (gradient for gradient in gradients), "generator"),
            (lambda gradients: {"kernel": gradients[0], "bias": gradients[1]}, "dict"),
        ],
        ids=["fewer", "more", "none", "generator", "dictionary"],
    )
    def test_wrong_count(self, fn, received):
        """How many were expected and what came."""
        message = f"a list of 2 gradients, one for each that it received. Received: {received}"
        with pytest.raises(ValueError, match=re.escape(message)):
            step(fn)

    def test_one_tensor(self):
        """Also where there is one weight only, a list is wanted."""
        with pytest.raises(
            ValueError, match=r"Function\(<lambda>\) should return a list of 1 grad"
        ):
            step(lambda gradients: gradients[0], [[0.0, 0.0]], ["kernel"])

    @pytest.mark.parametrize("shape", [(1, 2), (3,), ()])
    def test_wrong_shape(self, shape):
        """Also where it would broadcast: the weight's path, its shape, and what came."""
        message = f"shape (2,) for 'kernel'. Received: shape {shape}"
        with pytest.raises(ValueError, match=re.escape(message)):
            step(lambda gradients: [ops.ones(shape), gradients[1]])

    def test_none(self):
        """The cure is in the message."""
        with pytest.raises(ValueError, match="tensor for 'bias'; for no gradient return zeros"):
            step(lambda gradients: [gradients[0], None])

    def test_in_compiled_fit(self):
        """A wrong shape is an error under `fit`, too."""
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="head")])
        rule = fg.Rule("head", gradient=lambda gradients: [ops.ones((3,)) for _ in gradients])
        model.compile(fg.PerWeight("sgd", [rule]), "mse")
        with pytest.raises(ValueError, match=r"should return a gradient of shape \(1, 1\)"):
            model.fit(np.ones((1, 1)), np.ones((1, 1)), verbose=0)

    @pytest.mark.parametrize("kind", [tuple, list])
    def test_other_kinds(self, kind):
        """A tuple will do, and arrays of NumPy become tensors of the gradient's dtype."""
        results = step(lambda gradients: kind([np.full(2, 2.0), np.full(1, 4, "int64")]))
        assert results == [[-2.0, -2.0], [-4.0]]


class TestConfig:
    def test_label(self):
        """Functions go by their names, objects by those of their classes."""
        assert Function(add_weights).label == "Function(add_weights)"
        assert Function(lambda gradients: gradients).label == "Function(<lambda>)"
        assert Function(Doubling()).label == "Function(Doubling)"

    def test_a_lambda_loads_on_request(self):
        """Keras warns when it is saved, and loads it where that is allowed only."""
        with pytest.warns(UserWarning, match="includes a `lambda`"):
            config = keras.saving.serialize_keras_object(
                Function(lambda gradients: [3 * each for each in gradients])
            )
        with pytest.raises(ValueError, match="lambda"):
            keras.saving.deserialize_keras_object(config)
        again = keras.saving.deserialize_keras_object(config, safe_mode=False)
        assert [result.tolist() for result in applied(again, [np.ones(2)])] == [[3.0, 3.0]]
