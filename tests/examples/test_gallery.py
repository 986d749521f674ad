"""The gallery: each script is short, has a page with a picture, and runs."""

import re
import runpy
import sys
from pathlib import Path

import matplotlib.image
import pytest

from covering import chosen

pytest.importorskip("sklearn")

ROOT = Path(__file__).parents[2]
FOLDER, PAGES = ROOT / "examples" / "gallery", ROOT / "docs" / "gallery"
NAMES = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
# One script on each of the other backends; all of them in `make test-all`.
SELECTED = NAMES[:: len(NAMES)]


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_short_and_has_its_page(name):
    source = (FOLDER / f"{name}.py").read_text()
    assert len(source.splitlines()) <= 60
    page = (PAGES / f"{name}.md").read_text()
    assert f'--8<-- "examples/gallery/{name}.py"' in page
    assert f"images/{name}.png" in page
    (paper,) = re.findall(r'^""".*\((https://\S+)\)\.?"""$', source, re.MULTILINE)
    assert paper in page
    assert "## In plain Keras" in page
    assert f"images/{name}.png)]({name}.md)" in (PAGES / "index.md").read_text()
    assert (PAGES / "images" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert f": gallery/{name}.md" in (ROOT / "mkdocs.yml").read_text()


@pytest.mark.parametrize("name", chosen(NAMES, SELECTED))
def test_a_script_runs(name, tmp_path, monkeypatch):
    """With one epoch instead of all, and a picture that is not blank."""
    source = (FOLDER / f"{name}.py").read_text()
    short, found = re.subn(r"^EPOCHS = \d+$", "EPOCHS = 1", source, flags=re.MULTILINE)
    assert found == 1
    script = tmp_path / f"{name}.py"
    script.write_text(short)
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    sys.modules.pop("_show")
    picture = matplotlib.image.imread(tmp_path / "build" / "gallery" / f"{name}.png")
    assert picture[..., :3].std() > 0.02
