"""Turns the formulas of a page into MathML, which browsers show without a script."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    r"""Replace each `\(…\)` and `\[…\]` that pymdownx.arithmatex has marked."""
    return FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    kind, formula = match.groups()
    latex = html.unescape(formula).strip()
    if not latex.startswith((r"\(", r"\[")):
        return match[0]
    return convert(latex[2:-2].strip(), display="block" if kind == "div" else "inline")
