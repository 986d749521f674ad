"""The README and the guide, pasted: a page is a script, and its shell commands are run as well."""

import doctest
import re
from pathlib import Path

import pytest

from finegrain.tagging import manual_corpus
from real.terminal import BACKEND, FULL, full_only
from test_docs import PAGES_WITH_BLOCKS, ROOT, blocks

SHELL = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)

pages = pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            marks=[] if page.name == "README.md" else [full_only, pytest.mark.full],
            id=str(page.relative_to(ROOT)),
        )
        for page in PAGES_WITH_BLOCKS
    ],
)


def script_of(page: Path) -> str:
    """The blocks of a page in order; of a session, what stands after the prompts."""
    return "\n".join(
        doctest.script_from_examples(block.code) if ">>> " in block.code else block.code
        for block in blocks(page.read_text("utf-8"))
    )


@pages
@pytest.mark.skipif(
    not FULL and BACKEND != "torch", reason="on torch alone, but with FINEGRAIN_REAL=full"
)
def test_a_page_runs_as_a_script(page, terminal):
    """In an empty folder, without a warning."""
    (terminal.folder / "page.py").write_text(script_of(page), "utf-8")
    terminal.python("page.py")


@full_only
def test_the_commands_of_the_readme_run(terminal):
    """As they stand there, in a folder with the three files that they name."""
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = [shell for shell in SHELL.findall(readme) if "finegrain train" in shell]
    assert len(commands) == 1
    corpus = manual_corpus()
    texts = {
        "corpus.txt": "".join(" ".join(words) + "\n" for words in corpus.train[:400]),
        "held-out.txt": "".join(" ".join(words) + "\n" for words in corpus.test),
        "book.txt": "".join("".join(words) + "\n" for words in corpus.test),
    }
    for name, text in texts.items():
        (terminal.folder / name).write_text(text, "utf-8")
    said = terminal.run("bash", "-e", "-c", commands[0])
    assert "F1" in said
    assert said.replace(" ", "").startswith(texts["book.txt"])
