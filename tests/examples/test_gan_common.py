"""What the GAN examples share."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

import drawn

pytestmark = pytest.mark.one_backend


@pytest.fixture
def common(example):
    return example("_gan")


def test_the_distance_of_two_sets_is_that_of_their_moments(common):
    random = drawn.generator(0)
    one = random.normal(size=(200, 5)) @ random.normal(size=(5, 5))
    other = 1 + random.normal(size=(300, 5)) @ random.normal(size=(5, 5))
    a, b = np.cov(one.T), np.cov(other.T)
    expected = np.sum((one.mean(0) - other.mean(0)) ** 2) + np.trace(a + b - 2 * sqrtm(a @ b).real)
    np.testing.assert_allclose(common.frechet_distance(one, other), expected, rtol=1e-8)
    np.testing.assert_allclose(common.frechet_distance(other, one), expected, rtol=1e-8)
    np.testing.assert_allclose(common.frechet_distance(one, one), 0, atol=1e-6)


def test_a_feature_that_never_changes_is_no_obstacle(common):
    one = np.array([[0.0, 1.0], [2.0, 1.0]])
    # Means 1 and 2, standard deviations √2 and 3√2: 1 + (3√2 − √2)².
    assert common.frechet_distance(one, [[-1.0, 1.0], [5.0, 1.0]]) == pytest.approx(1 + 8)


def test_a_grid_goes_row_by_row(common):
    images = np.arange(6.0)[:, None, None] * np.ones((6, 2, 2))
    picture = common.grid(images, columns=3, border=0)
    assert picture.shape == (4, 6)
    np.testing.assert_array_equal(picture[::2, ::2], [[0, 1, 2], [3, 4, 5]])
    assert common.grid(images[:5, :, :, None], columns=3).shape == (4, 12)  # whole rows, a border


def test_curves_are_means_of_blocks(common):
    curves = common.Curves(["loss"], every=2)
    for epoch, losses in enumerate([[1.0, 2.0, 3.0, 5.0], [7.0, 8.0, 9.0]]):
        curves.on_epoch_begin(epoch)
        for batch in range(len(losses)):
            curves.on_train_batch_end(batch, {"loss": np.mean(losses[: batch + 1])})
    assert curves.values["loss"] == pytest.approx([1.5, 4.0, 7.5])


def test_a_result_is_written_whole_or_not_at_all(common, tmp_path):
    path = tmp_path / "new" / "result.json"
    common.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        common.write_json(path, {"a": object()})
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]
