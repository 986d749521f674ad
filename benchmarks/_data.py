"""Data sets that the benchmarks read from a folder of yours, and where each comes from."""

from __future__ import annotations

from pathlib import Path

SOURCES = {
    "mnist": "MNIST, https://github.com/cvdfoundation/mnist",
    "ud_en_ewt": "UD_English-EWT, https://github.com/UniversalDependencies/UD_English-EWT",
    "ud_zh_gsdsimp": (
        "UD_Chinese-GSDSimp, https://github.com/UniversalDependencies/UD_Chinese-GSDSimp"
    ),
    "wnut17": "WNUT-17, https://github.com/leondz/emerging_entities_17",
}


class MissingDataError(Exception):
    """A data set is not where `--data` says; the message says where to get it."""


def files(data: Path, name: str, *names: str) -> list[Path]:
    """Find the files of a data set.

    Args:
        data: The folder of all data sets.
        name: The data set, which is the name of its folder.
        names: The files in it.

    Raises:
        MissingDataError: if one of them is not there.
    """
    found = [data / name / file for file in names]
    for file in found:
        if not file.exists():
            raise MissingDataError(
                f"there is no {file}. The data are {SOURCES[name]}; benchmarks/README.md says how "
                "to put them there, and --data names another folder"
            )
    return found
