"""PCGrad, MGDA and UPGrad against their definitions in float64, by hand, and where they meet edges.

The oracles take other ways: the projection onto a cone is by least squares with coefficients of at
least 0 (Moreau's decomposition), and so is the point of least norm.
"""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import drawn
from covering import chosen
from finegrain.gradients import MGDA, PCGrad, UPGrad
from finegrain.gradients.active_sets import _solutions
from finegrain.gradients.conflicts import without_conflicts
from gradients.contract import array

optimize = pytest.importorskip("scipy.optimize")

MATRIX = np.array([[4, -2, 1, 0, 3], [-3, 1, 2, 2, -1], [1, 3, -4, 1, 0], [-2, -1, 0, -3, 2.0]])


def combined(combination, matrix):
    """The result for gradients of one weight, the lines of `matrix`."""
    rows = [[ops.convert_to_tensor(np.asarray(line, "float32"))] for line in matrix]
    return np.asarray(array(combination(rows)[0]), "float64")


def projected(vector, matrix):
    """The vector nearest to `vector` at no obtuse angle with any line of `matrix`."""
    sizes = np.linalg.norm(matrix, axis=1)
    size = np.linalg.norm(vector)
    if size == 0 or not sizes.any():
        return vector
    units = matrix[sizes > 0] / sizes[sizes > 0, None]
    pushes, _ = optimize.nnls(units.T, -vector / size, maxiter=10_000)
    return vector + size * pushes @ units


def upgrad(matrix):
    """The mean of the projections of all lines."""
    return np.mean([projected(line, matrix) for line in matrix], axis=0)


def mgda(matrix):
    """The point of least norm in the convex hull of the lines."""
    smallest = np.linalg.norm(matrix, axis=1).min()
    if smallest == 0:
        return np.zeros(matrix.shape[1])
    system = np.vstack([matrix.T / smallest, np.ones(len(matrix))])
    shares, _ = optimize.nnls(system, np.eye(len(system))[-1], maxiter=10_000)
    return shares / shares.sum() @ matrix


def pcgrad(matrix, order):
    """Algorithm 1, line by line."""
    total = np.zeros(matrix.shape[1])
    for line, meets in zip(matrix, order, strict=True):
        left = line.copy()
        for other in meets:
            product = left @ matrix[other]
            if product < 0 and not np.array_equal(line, matrix[other]):
                left -= product / (matrix[other] @ matrix[other]) * matrix[other]
        total += left
    return total


def drawn_matrix(kind, seed):
    """Lines that are random, of very different sizes, of rank 2, parallel, or opposite."""
    random = drawn.generator(17, seed)
    losses, numbers = [(2, 2), (3, 30), (5, 3), (6, 30), (8, 40)][seed]  # few shapes to compile
    matrix = random.normal(size=(losses, numbers))
    if kind == "sizes":
        matrix *= 10.0 ** random.uniform(-4, 4, size=(losses, 1))
    if kind == "rank 2":
        matrix = random.normal(size=(losses, 2)) @ random.normal(size=(2, numbers))
    if kind == "parallel":
        matrix = np.outer(random.choice([1.0, -1.0, 0.5, -0.5], losses), matrix[0])
    if kind == "opposite":
        matrix = matrix.astype("float32")
        matrix[-1] = -0.5 * matrix[0]
    return matrix.astype("float32").astype("float64")


KINDS = ["random", "sizes", "rank 2", "parallel", "opposite"]
# Angles of rank 2 are known to as many digits as the dot products have, in float32.
PRECISIONS = {"rank 2": 5e-4, "opposite": 5e-5}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", chosen(range(5), [0]))
def test_upgrad(kind, seed):
    """It is what the definition says, relative to the largest gradient."""
    matrix = drawn_matrix(kind, seed)
    unit = np.linalg.norm(matrix, axis=1).max()
    result = combined(UPGrad(), matrix)
    np.testing.assert_allclose(
        result / unit, upgrad(matrix) / unit, atol=PRECISIONS.get(kind, 1e-5), rtol=0
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", chosen(range(5), [0]))
def test_mgda(kind, seed):
    """It is what the definition says, relative to the smallest gradient."""
    matrix = drawn_matrix(kind, seed)
    unit = np.linalg.norm(matrix, axis=1).min()
    result = combined(MGDA(), matrix)
    np.testing.assert_allclose(
        result / unit, mgda(matrix) / unit, atol=PRECISIONS.get(kind, 2e-5), rtol=0
    )


@pytest.mark.parametrize("seed", range(5))
def test_pcgrad(seed):
    """Whatever the order is."""
    random = drawn.generator(18, seed)
    matrix = drawn_matrix("random", seed)
    order = np.array([random.permutation(len(matrix)) for _ in matrix])
    gram = ops.convert_to_tensor((matrix @ matrix.T).astype("float32"))
    left = array(without_conflicts(gram, ops.convert_to_tensor(order)))
    np.testing.assert_allclose(left.sum(0) @ matrix, pcgrad(matrix, order), rtol=1e-4, atol=1e-5)


def test_pcgrad_leaves_a_gradient_that_turned_away_from_itself():
    """What two others leave of one may be at an obtuse angle with it; it does not meet itself."""
    angles = np.radians([0, 170, 190])
    matrix = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    order = np.array([[1, 2, 0], [0, 1, 2], [0, 1, 2]])
    gram = ops.convert_to_tensor((matrix @ matrix.T).astype("float32"))
    left = array(without_conflicts(gram, ops.convert_to_tensor(order))) @ matrix
    assert left[0] @ matrix[0] < -0.01
    np.testing.assert_allclose(left.sum(0), pcgrad(matrix, order), atol=1e-5)


class TestTorchjd:
    """Numbers of torchjd 0.18, UPGrad with QuadprogProjector(norm_eps=0, reg_eps=1e-9)."""

    def test_upgrad(self):
        theirs = [-0.58943129, 0.9055866, -0.08137596, 0.68151108, 2.32420072]
        np.testing.assert_allclose(combined(UPGrad(), MATRIX), theirs, rtol=0, atol=1e-5)

    def test_mgda(self):
        """With epsilon=1e-9 and max_iters=20000."""
        theirs = [-0.22969667, 0.31319544, 0.03478923, 0.28886374, 0.78999493]
        np.testing.assert_allclose(combined(MGDA(), MATRIX), theirs, rtol=0, atol=1e-5)

    def test_pcgrad(self):
        """Of the first two, which meet in one order only."""
        theirs = [0.63157895, -1.21052632, 5.07894737, 3.57894737, 2.71052632]
        np.testing.assert_allclose(combined(PCGrad(), MATRIX[:2]), theirs, rtol=0, atol=1e-5)


class TestTwo:
    """Two gradients, by formulas."""

    def test_in_conflict(self):
        """Each loses its part along the other: (2, 0) and (−1, 1) become (1, 1) and (0, 1)."""
        matrix = np.array([[2.0, 0.0], [-1.0, 1.0]])
        np.testing.assert_allclose(combined(PCGrad(), matrix), [1, 2], rtol=1e-6)
        np.testing.assert_allclose(combined(UPGrad(), matrix), [0.5, 1], rtol=1e-5)
        np.testing.assert_allclose(combined(UPGrad([2.0, 3.0]), matrix), [2, 5], rtol=1e-5)

    def test_not_in_conflict(self):
        matrix = np.array([[2.0, 0.0], [1.0, 1.0]])
        np.testing.assert_allclose(combined(PCGrad(), matrix), [3, 1], rtol=1e-6)
        np.testing.assert_allclose(combined(UPGrad(), matrix), [1.5, 0.5], rtol=1e-5)

    @pytest.mark.parametrize(
        ("one", "other"),
        [([2.0, 0.0], [0.0, 1.0]), ([2.0, 0.0], [-1.0, 1.0]), ([4.0, 1.0], [1.0, 0.5])],
    )
    def test_least_norm(self, one, other):
        """The share of one is clip(⟨other − one, other⟩ / |one − other|², 0, 1)."""
        one, other = np.array(one), np.array(other)
        share = np.clip((other - one) @ other / ((one - other) @ (one - other)), 0, 1)
        expected = share * one + (1 - share) * other
        np.testing.assert_allclose(combined(MGDA(), [one, other]), expected, rtol=1e-5)

    def test_equal(self):
        matrix = np.array([[3.0, -1.0]] * 2)
        for combination, factor in ((PCGrad(), 2), (MGDA(), 1), (UPGrad(), 1)):
            np.testing.assert_allclose(combined(combination, matrix), factor * matrix[0], rtol=1e-5)

    def test_opposite(self):
        """No step lowers both losses."""
        matrix = np.array([[3.0, -1.0], [-6.0, 2.0]])
        for combination in (PCGrad(), MGDA(), UPGrad()):
            np.testing.assert_allclose(combined(combination, matrix), [0, 0], atol=1e-5)


numbers = st.integers(-8, 8).map(float)


@settings(max_examples=60)
@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(numbers, min_size=n, max_size=n), min_size=1, max_size=4)
    )
)
def test_no_loss_is_harmed(lines):
    """UPGrad and MGDA are in conflict with no gradient, of whatever integers, zeros among them."""
    matrix = np.array(lines)
    sizes = np.linalg.norm(matrix, axis=1)
    for combination in (UPGrad(), MGDA()):
        result = combined(combination, matrix)
        assert np.isfinite(result).all()
        products = matrix @ result / np.where(sizes > 0, sizes, 1)
        assert (products >= -2e-5 * max(sizes.max(), 1)).all()
    # Nothing in the hull is nearer to 0 than MGDA, and all of it is on its other side.
    assert (matrix @ result >= result @ result - 1e-3).all()


class TestOrders:
    def test_each_call_draws_others(self):
        """Of eight losses in conflict the results of two calls differ, and begin alike."""
        matrix = drawn_matrix("random", 1)
        while len(matrix) < 5:
            matrix = np.vstack([matrix, -matrix])
        matrix = np.vstack([matrix, -matrix.sum(0) / 2])
        first, again = (PCGrad(seed=3) for _ in "ab")
        results = [combined(first, matrix) for _ in range(3)]
        np.testing.assert_array_equal(results[0], combined(again, matrix))
        assert np.abs(results[0] - results[1]).max() > 1e-4

    def test_the_seed_is_state(self):
        """Put back, the same order is drawn again."""
        matrix = drawn_matrix("random", 2)
        combination = PCGrad(seed=3)
        before = [keras.ops.convert_to_numpy(v) for v in combination.variables]
        result = combined(combination, matrix)
        for variable, value in zip(combination.variables, before, strict=True):
            variable.assign(value)
        np.testing.assert_array_equal(combined(combination, matrix), result)


def test_small_gradients_are_heeded():
    """A gradient of a ten thousandth of another one is projected, and projected onto, exactly."""
    matrix = np.array([[1e4, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, -1e-4, 1e-4]])
    result = combined(UPGrad(), matrix)
    np.testing.assert_allclose(result, upgrad(matrix), rtol=1e-4)
    cosines = matrix @ result / np.linalg.norm(matrix, axis=1) / np.linalg.norm(result)
    assert (cosines >= -1e-5).all()


def test_a_pivot_that_rounding_made_zero():
    """No set of active constraints gives NaN, which would be taken for the least violation."""
    singular = ops.ones((1, 2, 2))
    assert np.isfinite(array(_solutions(singular, ops.ones((1, 2, 1))))).all()
