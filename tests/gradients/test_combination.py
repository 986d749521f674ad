"""What holds for every combination of the gradients of several losses."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import drawn
from finegrain import gradients
from finegrain.gradients import MGDA, GradientCombination, Mean, PCGrad, Sum, UPGrad
from finegrain.gradients.combination import gram_matrix
from gradients.contract import array

BACKEND = keras.backend.backend()

COMBINATIONS = {
    "sum": Sum,
    "mean": Mean,
    "pcgrad": lambda: PCGrad(seed=drawn.seed(1)),
    "mgda": MGDA,
    "upgrad": UPGrad,
    "upgrad_preference": lambda: UPGrad([0.25, 0.5, 1.0]),
}
every_combination = pytest.mark.parametrize("name", COMBINATIONS)

SHAPES = [(2, 3), (), (3,), (2, 1, 2)]
LOSSES = 3
# For the second weight no loss has a gradient.
PRESENT = np.array([[1, 0, 1, 1], [1, 0, 0, 1], [1, 0, 1, 0]], bool)


def rows_of(seed, dtype="float32", factor=1.0):
    """Gradients of three losses, in numbers that float32 and the dtype hold, and `None`."""
    random = drawn.generator(seed)
    rows = [[random.normal(size=shape) * factor for shape in SHAPES] for _ in range(LOSSES)]
    return [
        [ops.cast(np.asarray(g, "float32"), dtype) if there else None for g, there in pair]
        for pair in (zip(row, own, strict=True) for row, own in zip(rows, PRESENT, strict=True))
    ]


def as_matrix(rows):
    """A line for each loss, of float64, with zeros for `None`."""
    return np.array(
        [
            np.concatenate(
                [
                    np.zeros(int(np.prod(shape))) if g is None else np.ravel(array(g))
                    for g, shape in zip(row, SHAPES, strict=True)
                ]
            )
            for row in rows
        ],
        "float64",
    )


def as_line(combined):
    """The result as one line, with zeros for `None`."""
    return as_matrix([combined])[0]


def test_the_table_has_every_combination():
    found = (getattr(gradients, name) for name in gradients.__all__)
    public = {kind for kind in found if issubclass(kind, GradientCombination)}
    assert public - {GradientCombination} == {type(make()) for make in COMBINATIONS.values()}


@pytest.mark.one_backend
@every_combination
def test_config_round_trip(name):
    """By way of JSON."""
    combination = COMBINATIONS[name]()
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(combination)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(combination)
    assert again.get_config() == combination.get_config()
    assert repr(again) == repr(combination)
    given = rows_of(1)
    np.testing.assert_array_equal(as_line(again(given)), as_line(combination(given)))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@every_combination
def test_shapes_and_dtypes_are_kept(name, dtype):
    """What is missing everywhere stays so; results are near those of float32."""
    given = rows_of(1, dtype)
    before = as_matrix(given)
    combined = COMBINATIONS[name]()(given)
    assert [g is None for g in combined] == [False, True, False, False]
    for gradient, shape in zip(combined, SHAPES, strict=True):
        if gradient is not None:
            assert tuple(gradient.shape) == shape
            assert keras.backend.standardize_dtype(gradient.dtype) == dtype
    np.testing.assert_array_equal(as_matrix(given), before)
    precise = [[None if g is None else ops.cast(g, "float32") for g in row] for row in given]
    precision = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(
        as_line(combined), as_line(COMBINATIONS[name]()(precise)), precision, precision
    )


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has no float64 by default")
@every_combination
def test_float64(name):
    given = rows_of(1, "float64")
    combined = COMBINATIONS[name]()(given)
    assert {keras.backend.standardize_dtype(g.dtype) for g in combined if g is not None} == {
        "float64"
    }


@pytest.mark.parametrize("factor", [1e-8, 1e6])
@every_combination
def test_the_unit_of_the_losses_does_not_matter(name, factor):
    """Gradients of another size give results of that size, in the same direction."""
    plain = as_line(COMBINATIONS[name]()(rows_of(1)))
    scaled = as_line(COMBINATIONS[name]()(rows_of(1, factor=factor)))
    np.testing.assert_allclose(scaled / factor, plain, rtol=1e-4, atol=1e-5)


@every_combination
def test_one_loss(name):
    """Its gradient is the result."""
    given = rows_of(2)[:1]
    combination = COMBINATIONS["upgrad" if name.startswith("upgrad") else name]()
    np.testing.assert_allclose(as_line(combination(given)), as_matrix(given)[0], rtol=2e-6)


@every_combination
def test_zeros(name):
    """Where all gradients are 0 the result is 0; a single one spoils nothing."""
    zeros = [[ops.zeros(3)] for _ in range(LOSSES)]
    np.testing.assert_array_equal(array(COMBINATIONS[name]()(zeros)[0]), np.zeros(3))
    zeros[0] = [ops.convert_to_tensor(np.array([1.0, -2.0, 0.5], "float32"))]
    result = array(COMBINATIONS[name]()(zeros)[0])
    share = {"sum": 1, "mean": 1 / 3, "pcgrad": 1, "mgda": 0, "upgrad": 1 / 3}.get(name, 0.25)
    np.testing.assert_allclose(result, share * np.array([1.0, -2.0, 0.5]), rtol=2e-6)


@every_combination
def test_what_is_not_finite_stays_so(name):
    """In the weights that have it, so that the step can be dropped; other weights are finite."""
    given = rows_of(1)
    given[0][0] = ops.full(SHAPES[0], np.nan)
    given[1][3] = ops.full(SHAPES[3], np.inf)
    combined = COMBINATIONS[name]()(given)
    assert not np.isfinite(array(combined[0])).any()
    assert not np.isfinite(array(combined[3])).any()
    assert np.isfinite(array(combined[2])).all()


@every_combination
def test_compiled(name):
    """A compiled step gives the same, up to rounding."""
    given = rows_of(3)
    expected = as_line(COMBINATIONS[name]()(given))
    np.testing.assert_allclose(
        as_line(in_a_compiled_step(COMBINATIONS[name](), given)), expected, rtol=1e-5, atol=1e-6
    )


def in_a_compiled_step(combination, given):
    """What the first call gives; its state is handed through, as Keras's own steps do."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda rows: combination(rows), jit_compile=True)(given)
    if BACKEND == "jax":
        import jax

        @jax.jit
        def step(state, rows):
            mapping = list(zip(combination.variables, state, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return combination(rows)

        return step([v.value for v in combination.variables], given)
    return combination(given)


def test_a_group_of_weights_has_coefficients_of_its_own():
    """Two calls are not one call on all weights."""
    given = rows_of(4)
    together = as_line(UPGrad()(given))
    first = UPGrad()([row[:1] for row in given])
    rest = UPGrad()([row[1:] for row in given])
    assert np.abs(as_line([*first, *rest]) - together).max() > 1e-3


def test_gram_matrix():
    """Over all weights together, with zeros for `None`."""
    given = rows_of(5)
    matrix = as_matrix(given)
    gram = gram_matrix(given)
    assert keras.backend.standardize_dtype(gram.dtype) == "float32"
    np.testing.assert_allclose(array(gram), matrix @ matrix.T, rtol=1e-5, atol=1e-6)


def test_gradients_without_a_common_weight():
    """They are at right angles, whatever they are."""
    one = ops.ones((2,))
    for make in (PCGrad, lambda: UPGrad([1.0, 1.0])):
        combined = make()([[one, None], [None, -one]])
        np.testing.assert_allclose([array(g) for g in combined], [[1, 1], [-1, -1]], rtol=2e-6)


def test_sum_and_mean():
    given = rows_of(6)
    np.testing.assert_allclose(as_line(Sum()(given)), as_matrix(given).sum(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        as_line(Mean()(given)), as_matrix(given).mean(0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has sparse gradients")
def test_sparse_gradients():
    """Rows that a batch looked up twice have their gradients summed."""
    import tensorflow as tf

    sparse = tf.IndexedSlices(tf.ones((2, 2)), tf.constant([0, 0]), tf.constant([3, 2]))
    (combined,) = Sum()([[sparse], [ops.ones((3, 2))]])
    np.testing.assert_array_equal(array(combined), [[3, 3], [1, 1], [1, 1]])


class TestRefusals:
    def test_no_loss(self):
        with pytest.raises(ValueError, match="one at least"):
            Sum()([])

    def test_other_lengths(self):
        with pytest.raises(ValueError, match=r"lists of \[1, 2\] gradients"):
            Sum()([[ops.ones(1)], [ops.ones(1)] * 2])

    def test_other_shapes(self):
        with pytest.raises(ValueError, match=r"one shape.*\(1,\), \(2,\).*weight 1"):
            Sum()([[None, ops.ones(1)], [None, ops.ones(2)]])

    @pytest.mark.parametrize("combination", [MGDA, UPGrad])
    def test_too_many_losses(self, combination):
        with pytest.raises(ValueError, match=r"10 losses at most.*11 losses"):
            combination()([[ops.ones(1)]] * 11)

    @pytest.mark.parametrize("seed", [-1, 0.5, True, "a"])
    def test_seeds(self, seed):
        with pytest.raises(ValueError, match="`seed` should be an integer"):
            PCGrad(seed)

    @pytest.mark.parametrize("preference", [[0.0, 1.0], [-1.0], [np.nan]])
    def test_preferences(self, preference):
        with pytest.raises(ValueError, match="`preference` should be a finite number > 0"):
            UPGrad(preference)

    def test_preferences_of_other_losses(self):
        with pytest.raises(ValueError, match="a number for each of 3 losses"):
            UPGrad([1.0, 2.0])([[ops.ones(1)]] * 3)
