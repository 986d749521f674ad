"""Tables by hand, with a line for each kind of weight: what holds, and for which paths.

    kernel  layer_#/(query|key)/kernel   -- a note

`#` stands for a number, `@` for the one that counts; the rest is a regular expression for the
whole path.
"""

import re
from typing import NamedTuple

import keras


class Line(NamedTuple):
    """One line of a table: what it says, and of which paths."""

    says: str
    pattern: str

    def matches(self, path: str) -> re.Match[str] | None:
        pattern = self.pattern.replace("#", r"\d+").replace("@", r"(?P<number>\d+)")
        return re.fullmatch(pattern, path)


def read(table: str) -> list[Line]:
    """Return the lines of a table, without its notes."""
    lines = (line.partition(" -- ")[0].split() for line in table.splitlines())
    return [Line(*line) for line in lines if line]


def look_up(table: str, paths: list[str]) -> list[tuple[str, re.Match[str]]]:
    """Return what the table says of each path: each is in one line, and each line of use."""
    lines = read(table)
    found = [[(line.says, match) for line in lines if (match := line.matches(p))] for p in paths]
    unclear = {p: [said for said, _ in f] for p, f in zip(paths, found, strict=True) if len(f) != 1}
    if unclear:
        raise LookupError(f"Not in one line of the table: {unclear}")
    idle = [line for line in lines if not any(line.matches(path) for path in paths)]
    if idle:
        raise LookupError(f"Lines that match no weight: {idle}")
    return [said for (said,) in found]


def places(model: keras.Model) -> list[str]:
    """Return where each trainable weight is: "tower:layer:path".

    Paths alone do not tell: both towers of CLIP have an `encoder_block_0/dense_1/kernel`, and some
    layers build their parts outside their own name.
    """
    place: dict[int, str] = {}

    def enter(layers: list[keras.layers.Layer], towers: list[str]) -> None:
        for layer in layers:
            if isinstance(layer, keras.Model) and not isinstance(layer, keras.Sequential):
                enter(layer.layers, [*towers, layer.name])
            for weight in layer.trainable_weights:
                place.setdefault(id(weight), ":".join([*towers, layer.name, weight.path]))

    enter(model.layers, [])
    return [place[id(weight)] for weight in model.trainable_weights]
