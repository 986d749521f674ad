"""Each backend has the same names, in a module of its own."""

import ast
from pathlib import Path

import pytest

import finegrain

SOURCE = Path(finegrain.__file__).parent
BACKENDS = ["jax", "torch", "tensorflow", "others"]

pytestmark = pytest.mark.one_backend


def tree(*names):
    """The syntax of a module, which may be that of a backend that cannot be imported here."""
    return ast.parse(SOURCE.joinpath(*names).with_suffix(".py").read_text())


def listed(module):
    """What the module's `__all__` names."""
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def defined(module):
    """What the module defines or imports at its top, but for private names."""
    names = set()
    for node in module.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {ast.unparse(target) for target in node.targets}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return {name for name in names if not name.startswith("_")}


def test_what_backends_do():
    """All of them list the same names, and have them."""
    modules = {name: tree("_backend", name) for name in BACKENDS}
    assert len({tuple(listed(module)) for module in modules.values()}) == 1
    for name, module in modules.items():
        assert set(listed(module)) <= defined(module), name


def test_lists():
    """The arithmetic on lists of tensors."""
    functions = [
        [node.name for node in tree("_backend", name).body if isinstance(node, ast.FunctionDef)]
        for name in ("lists", "foreach")
    ]
    assert set(functions[0]) == set(functions[1]) - {"moment_step"}


@pytest.mark.parametrize("name", BACKENDS)
def test_kernels(name):
    """The functions of a chain."""
    functions = {"score", "log_prob", "log_partition", "marginals", "best_tags"}
    assert functions <= defined(tree("crf", "kernels", name))
