"""One way to run a function and its gradient on whichever backend the tests are about.

JAX runs compiled, once for each shape, since its loops would otherwise be traced anew in every
call (with little optimization: compiling is all that takes time here). PyTorch and TensorFlow run
eagerly, TensorFlow as a graph where asked to. Everything comes back as NumPy arrays.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import tree

BACKEND = keras.backend.backend()
EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52}
Arrays = dict[str, Any]


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Lets JAX compute in `dtype`; the other backends need no leave."""
    if BACKEND != "jax":
        yield
        return
    import jax

    with jax.enable_x64(dtype == "float64"):
        yield


def evaluate(
    function: Callable[[Arrays, Arrays], Any], parts: Arrays, fixed: Arrays, graph: bool = False
) -> Any:
    """What `function(parts, fixed)` returns, for dictionaries of arrays and None."""
    if BACKEND == "jax":
        return _arrays(_jitted(function, "value")(parts, fixed))
    if BACKEND == "tensorflow" and graph:
        function = _graph(function)
    return _arrays(function(_tensors(parts), _tensors(fixed)))


def gradients(
    function: Callable[[Arrays, Arrays], Any], parts: Arrays, fixed: Arrays, graph: bool = False
) -> Arrays:
    """The gradient of the scalar `function(parts, fixed)` for each array in `parts`."""
    parts = {name: part for name, part in parts.items() if part is not None}
    if BACKEND == "jax":
        return _arrays(_jitted(function, "gradient")(parts, fixed))
    tensors, fixed = _tensors(parts), _tensors(fixed)
    names = list(tensors)
    if BACKEND == "torch":
        import torch

        sources = [tensors[name].requires_grad_() for name in names]
        value = function(tensors, fixed)
        found = torch.autograd.grad(value, sources, allow_unused=True)
    else:
        step = _graph(_taped) if graph else _taped
        found = step(function, [tensors[name] for name in names], names, fixed)
    return {
        name: np.zeros_like(parts[name]) if gradient is None else _array(gradient)
        for name, gradient in zip(names, found, strict=True)
    }


@functools.cache
def _jitted(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    import jax

    function = jax.grad(function) if what == "gradient" else function
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": "0"})


@functools.cache
def _graph(function: Callable[..., Any]) -> Callable[..., Any]:
    import tensorflow as tf

    return tf.function(function)


def _taped(function: Callable[..., Any], sources: list[Any], names: list[str], fixed: Any) -> Any:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(sources)
        value = function(dict(zip(names, sources, strict=True)), fixed)
    return tape.gradient(value, sources)


def _tensors(arrays: Arrays) -> Arrays:
    """Tensors of the arrays' own types. PyTorch's are copies: it would write into the arrays."""
    return {
        name: None if array is None else keras.ops.convert_to_tensor(np.array(array))
        for name, array in arrays.items()
    }


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def _arrays(structure: Any) -> Any:
    return tree.map_structure(_array, structure)
