"""Each backend does under the same names what it does differently."""

import ast
import types
from pathlib import Path

import pytest

import finegrain
from finegrain._backend import names_of, neutral

SOURCE = Path(finegrain.__file__).parent
OWN = ["jax", "torch", "tensorflow"]

pytestmark = pytest.mark.one_backend


def tree(*names):
    """The syntax of a module, which may be that of a backend that cannot be imported here."""
    return ast.parse(SOURCE.joinpath(*names).with_suffix(".py").read_text())


def defined(module):
    """What the module defines at its top, but for private names and those of types."""
    names = set()
    for node in module.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {ast.unparse(target) for target in node.targets}
    return {name for name in names if not name.startswith("_")} - {"Tensor"}


def arguments(module):
    """The names of the arguments of each public function."""
    return {
        node.name: [argument.arg for argument in node.args.args]
        for node in module.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


@pytest.mark.parametrize("name", OWN)
def test_a_backend_adds_no_names(name):
    """What a module has, `neutral` has as well, for the other backends, with the same arguments."""
    own, common = tree("_backend", name), tree("_backend", "neutral")
    assert defined(own) <= set(neutral.__all__)
    meant = arguments(common)
    assert all(meant.get(n, given) == given for n, given in arguments(own).items())


def test_neutral_has_all_names():
    """Also those that each of the three does in its own way."""
    assert all(hasattr(neutral, name) for name in neutral.__all__)
    assert list(neutral.__all__) == sorted(neutral.__all__)


def test_the_last_module_decides():
    """A backend's own form stands in the place of the neutral one, and nothing else comes along."""
    own = types.SimpleNamespace(is_sparse=len, helper=1)
    found = names_of(neutral, own)
    assert found.is_sparse is len
    assert found.dense is neutral.dense
    assert set(vars(found)) == set(neutral.__all__)


def test_lists():
    """The arithmetic on lists of tensors: the same functions of the same arguments."""
    neutral_form, own = (arguments(tree("_backend", name)) for name in ("lists", "foreach"))
    own.pop("moment_step")
    assert neutral_form == own


@pytest.mark.parametrize("name", [*OWN, "others"])
def test_kernels(name):
    """The functions of a chain."""
    module = tree("crf", "kernels", name)
    imports = [node for node in module.body if isinstance(node, ast.ImportFrom)]
    imported = {alias.name for node in imports for alias in node.names}
    functions = {"score", "log_prob", "log_partition", "marginals", "best_tags"}
    assert functions <= defined(module) | imported
