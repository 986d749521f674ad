"""Every Python block of the README and the guide, and every example in a docstring, is run.

The blocks of one page share their names and run in order, so that a page reads as one session.
Scripts of other libraries, which need not be installed, are fenced as `py` and not run.
An example in a docstring starts with no names at all: it imports what it uses, as a reader will.
"""

import ast
import doctest
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import pytest

from covering import chosen

BACKEND = keras.backend.backend()
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted((ROOT / "src").rglob("*.py"))
FENCE = re.compile(r"^( *)```python\b[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A piece of Python in a text, and the number of lines that stand before it in its file."""

    code: str
    lines_before: int


def blocks(text: str, lines_before: int = 0) -> Iterator[Block]:
    """The fenced Python blocks of a Markdown text."""
    for fence in FENCE.finditer(text):
        line = lines_before + text.count("\n", 0, fence.start(2))
        yield Block(textwrap.dedent(fence[2]), line)


def docstrings(path: Path) -> Iterator[tuple[str, Block]]:
    """The docstrings of a module, its classes and its functions, by qualified name."""

    def visit(node: Any, name: str) -> Iterator[tuple[str, Block]]:
        docstring = ast.get_docstring(node, clean=False)
        if docstring is not None:
            yield name, Block(docstring, node.body[0].lineno - 1)
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from visit(child, f"{name}.{child.name}")

    relative = path.relative_to(ROOT / "src").with_suffix("")
    module = ".".join(part for part in relative.parts if part != "__init__")
    yield from visit(ast.parse(path.read_text("utf-8")), module)


def run(block: Block, path: Path, names: dict[str, Any]) -> None:
    """Run a block: as a session where it shows one, with what it prints compared, else as it is."""
    if ">>> " not in block.code:
        source = "\n" * block.lines_before + block.code
        exec(compile(source, str(path), "exec"), names)
        return
    session = doctest.DocTestParser().get_doctest(
        block.code, names, path.name, str(path), block.lines_before
    )
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    if runner.run(session, out=report.append, clear_globs=False).failed:
        pytest.fail("".join(report), pytrace=False)


PAGES_WITH_BLOCKS = [path for path in PAGES if any(blocks(path.read_text("utf-8")))]
EXAMPLES = {
    name: (path, docstring)
    for path in MODULES
    for name, docstring in docstrings(path)
    if ">>> " in docstring.code or FENCE.search(docstring.code)
}


# Every page and every example on one backend, other examples on each of the others, but none that
# trains: that is compiled for nothing else. At full size the tier `real` runs the README on all.
QUICK = [name for name, (_, docstring) in EXAMPLES.items() if ".fit(" not in docstring.code]
SELECTED = QUICK[["tensorflow", "jax", "torch"].index(BACKEND) :: 6]


@pytest.mark.full
@pytest.mark.parametrize("path", PAGES_WITH_BLOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_blocks_of_a_page_run_in_order(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(path.read_text("utf-8")):
        run(block, path, names)


@pytest.mark.parametrize("name", chosen(EXAMPLES, SELECTED))
def test_the_example_of_a_docstring_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, docstring = EXAMPLES[name]
    fenced = list(blocks(docstring.code, docstring.lines_before))
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in fenced or [docstring]:
        run(block, path, names)


@pytest.mark.one_backend
def test_a_wrong_example_fails(tmp_path):
    with pytest.raises(pytest.fail.Exception, match="Expected"):
        run(Block(">>> 1 + 1\n3\n", 0), tmp_path / "page.md", {})
    with pytest.raises(NameError):
        run(Block("unknown_name\n", 0), tmp_path / "page.md", {})


@pytest.mark.one_backend
def test_blocks_are_found_where_they_stand():
    page = "Text\n```python\na = 1\n```\n```bash\nls\n```\n- item\n  ```python\n  b = 2\n  ```\n"
    assert list(blocks(page)) == [Block("a = 1\n", 2), Block("b = 2\n", 9)]
