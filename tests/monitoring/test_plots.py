"""Pictures of matrices: every number, label and title is in them."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from finegrain.monitoring.plots import matrices

pytestmark = pytest.mark.one_backend

TABLES = {
    "softmax": np.array([[0.125, -3.0], [1.5, 2.25]]),
    "crf": np.array([[-np.inf, 0.0], [-0.5, 7.0]]),
}


def picture(tables=None, **options):
    """The matrices with the labels from: s, b and to: x, y."""
    return matrices(TABLES if tables is None else tables, ["s", "b"], ["x", "y"], **options)


def texts(axes):
    """What stands in the cells, by (row, column)."""
    return {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in axes.texts}


def test_one_axes_a_matrix_and_a_scale():
    """Each matrix has axes of its own under its name; the colour scale is the last."""
    figure = picture(title="Transitions")
    *drawn, scale = figure.axes
    assert [axes.get_title() for axes in drawn] == ["softmax", "crf"]
    assert scale.get_title() == ""
    assert not scale.images
    assert figure.get_suptitle() == "Transitions"
    assert len(picture({"one": TABLES["crf"]}).axes) == 2


def test_each_cell_has_its_number():
    """Cells tell their value with two digits, and −∞ as such, in row and column of the matrix."""
    first, second, _ = picture().axes
    assert texts(first) == {(0, 0): "0.12", (0, 1): "-3.00", (1, 0): "1.50", (1, 1): "2.25"}
    assert texts(second) == {(0, 0): "−∞", (0, 1): "0.00", (1, 0): "-0.50", (1, 1): "7.00"}


def test_labels():
    """Rows and columns bear their labels; rows are what is left, columns where it goes."""
    for axes in picture().axes[:2]:
        assert [label.get_text() for label in axes.get_yticklabels()] == ["s", "b"]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y"]
        assert axes.get_xlabel() == "to"
    assert picture().axes[0].get_ylabel() == "from"


def test_one_colour_scale():
    """All matrices share a scale round zero that reaches the largest finite number."""
    images = [image for axes in picture().axes for image in axes.images]
    assert [image.get_clim() for image in images] == [(-7.0, 7.0)] * 2
    for image, table in zip(images, TABLES.values(), strict=True):
        shown = np.ma.filled(image.get_array(), -np.inf)
        np.testing.assert_array_equal(shown, table)


def test_numbers_can_be_read_on_their_colour():
    """Dark cells have white numbers, light ones black."""
    first, second, _ = picture().axes
    colours = {t.get_text(): t.get_color() for axes in (first, second) for t in axes.texts}
    assert colours["7.00"] == "white"
    assert colours["-0.50"] == colours["−∞"] == colours["0.00"] == "black"


@pytest.mark.parametrize(
    "table", [np.zeros((2, 2)), np.full((2, 2), -np.inf), np.full((2, 2), np.nan)]
)
def test_matrices_without_a_scale(table, tmp_path):
    """Nothing but zeros, or nothing finite at all, can be drawn too."""
    file = tmp_path / "picture.png"
    picture({"flat": table}).savefig(file)
    assert file.stat().st_size > 1_000


def test_written_picture(tmp_path):
    """What is written is a PNG in which more than one colour occurs."""
    from matplotlib.image import imread

    file = tmp_path / "picture.png"
    picture().savefig(file)
    assert file.read_bytes().startswith(b"\x89PNG\r\n")
    pixels = imread(file)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 50
