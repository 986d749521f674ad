"""The public names: what each package lists is what it has, and each of them is documented."""

import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

import finegrain

pytestmark = pytest.mark.one_backend

# Where things live that the public modules hand out: rooms behind the doors.
ROOMS = {"demo", "game", "gan", "per_weight", "range_test", "rules", "tagger"}
PACKAGES = [
    "finegrain",
    *sorted(
        f"finegrain.{found.name}"
        for found in pkgutil.iter_modules(finegrain.__path__)
        if not found.name.startswith("_") and found.name not in ROOMS | {"cli"}
    ),
]
OBJECTS = [
    f"{package}.{name}"
    for package in PACKAGES
    for name in importlib.import_module(package).__all__
    if not isinstance(getattr(importlib.import_module(package), name), ModuleType)
]


def resolve(path):
    package, _, name = path.rpartition(".")
    return getattr(importlib.import_module(package), name)


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_what_there_is(package):
    """`__all__` lists every public name of the package but its modules; ruff sorts it."""
    module = importlib.import_module(package)
    listed = module.__all__
    assert len(listed) == len(set(listed))
    there = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    modules = {name for name in listed if isinstance(getattr(module, name), ModuleType)}
    assert set(listed) - modules == there


def test_packages_are_attributes():
    """`import finegrain` is enough to reach every public package."""
    names = {package.removeprefix("finegrain.") for package in PACKAGES[1:]}
    listed = {
        name for name in finegrain.__all__ if isinstance(getattr(finegrain, name), ModuleType)
    }
    assert listed == names


def test_names_of_the_contract():
    """The names that users have been promised, where they have been promised."""
    for path in [
        "PerWeight",
        *(
            f"recipes.{name}"
            for name in (
                "no_weight_decay",
                "layer_decay",
                "muon",
                "lora_plus",
                "mup",
                "discriminative",
                "head_first",
                "crf",
            )
        ),
        "Rule",
        "crf.LinearChain",
        "crf.decode",
        "find_learning_rate",
        "layers.CRF",
        "losses.CRFNegativeLogLikelihood",
        "metrics.ViterbiAccuracy",
        "optimizers.PerWeight",
        "reader.load",
        "tagging.BMES",
        "tagging.Segmenter",
    ]:
        assert resolve(f"finegrain.{path}")


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_say_what_they_are(package):
    """Each package has a docstring of its own."""
    assert importlib.import_module(package).__doc__


@pytest.mark.parametrize("path", OBJECTS)
def test_documentation(path):
    """Each public object is documented: classes with their arguments and an example.

    Records that functions return have their attributes described instead.
    """
    thing = resolve(path)
    text = inspect.getdoc(thing)
    assert text
    assert "__doc__" not in vars(thing) or vars(thing)["__doc__"], "the docstring is inherited"
    if not inspect.isclass(thing) or issubclass(thing, Exception) or _is_protocol(thing):
        return
    if "Attributes:" not in text:
        assert "Example:" in text
        assert "Args:" in text or not inspect.signature(thing).parameters


@pytest.mark.parametrize("path", OBJECTS)
def test_errors_and_reports_name_public_places(path):
    """Each public object belongs to the package, not to something imported for its use."""
    assert resolve(path).__module__.startswith(("finegrain.", "finegrain_reader"))


def _is_protocol(thing):
    return getattr(thing, "_is_protocol", False)
