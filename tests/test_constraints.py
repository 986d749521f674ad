"""constraints.txt, as far as it can be checked without a package index: `make versions` has one."""

import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYTHONS = [f"3.11.{micro}" for micro in range(16)] + ["3.12.0", "3.13.0", "3.14.0"]

pytestmark = pytest.mark.one_backend


def lines():
    text = (ROOT / "constraints.txt").read_text("utf-8")
    return [Requirement(line) for line in text.splitlines() if not line.startswith("#")]


def applies(requirement, python):
    minor = ".".join(python.split(".")[:2])
    environment = {"python_version": minor, "python_full_version": python}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def pins(python):
    return [requirement for requirement in lines() if applies(requirement, python)]


@pytest.mark.parametrize("python", PYTHONS)
def test_one_exact_version_each(python):
    """A Python has one version of a package, and each package that is pinned has one for it."""
    names = [canonicalize_name(pin.name) for pin in pins(python)]
    assert sorted(names) == sorted({canonicalize_name(line.name) for line in lines()})
    for pin in pins(python):
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert "*" not in specifier.version


def test_versions_are_for_the_pythons_they_are_pinned_for():
    """What is installed here says which Pythons it is for."""
    seen = 0
    for pin in lines():
        try:
            found = metadata.metadata(pin.name)
        except metadata.PackageNotFoundError:
            continue
        asked = found.get("Requires-Python")
        if found["Version"] not in pin.specifier or asked is None:
            continue
        seen += 1
        allowed = SpecifierSet(asked)
        wrong = [python for python in PYTHONS if applies(pin, python) and python not in allowed]
        assert not wrong, f"{pin} needs Python {allowed}"
    assert seen > 10


@pytest.mark.parametrize("python", ["3.11.0", "3.14.0"])
def test_what_the_project_asks_for_is_pinned_within_its_bounds(python):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    exact = {canonicalize_name(pin.name): pin for pin in pins(python)}
    asked = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    for requirement in map(Requirement, asked):
        (specifier,) = exact[canonicalize_name(requirement.name)].specifier
        assert specifier.version in requirement.specifier, requirement
