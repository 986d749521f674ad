"""What each name of a backend means, and how most backends do it: by `keras.ops` alone.

So do all backends that have no module of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._backend import lists
from finegrain._backend.support import WITHOUT_GRADIENTS, no_kernel

Tensor = Any

__all__ = [
    "BUILDS_ON_A_BATCH",
    "CHECKS_INDICES",
    "COUNTS_TOGETHER",
    "ENCLOSES_RECOMPUTATIONS",
    "RUNS_EACH_STEP",
    "UNDOES_FAILED_STEPS",
    "anywhere",
    "attach",
    "call_if",
    "compiled_once",
    "compute_before_updates",
    "conv_transpose",
    "count_one",
    "dense",
    "enclose",
    "gradient",
    "host_array",
    "is_compiling",
    "is_native_variable",
    "is_sparse",
    "lists",
    "moment_step",
    "number_of_replicas",
    "on_rows",
    "on_values",
    "outside_of_graphs",
    "over_replicas",
    "pullback",
    "random_state",
    "recomputations",
    "run_if",
    "scope_of",
    "set_random_state",
    "snapshot",
    "straight_through",
    "unchanged_since",
    "undo_fit",
    "versions",
]

RUNS_EACH_STEP = False
"""Whether Python runs at each step, so that what it remembers of the last one saves work."""

COUNTS_TOGETHER = False
"""Whether the step counts of many optimizers are better kept in one variable."""

UNDOES_FAILED_STEPS = False
"""Whether Keras forgets what a step assigned if it raises an error."""

BUILDS_ON_A_BATCH = False
"""Whether the first `fit` takes a batch before its first epoch, to build losses and metrics."""

ENCLOSES_RECOMPUTATIONS = True
"""Whether `enclose` can do what it is for, or can only raise an error."""

CHECKS_INDICES = False
"""Whether looking up an index that is outside raises an error by itself."""

moment_step: Callable[..., None] | None = None
"""A step of second moments for all weights at once, or `None` where each moves by itself."""


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value` with the derivatives, of any order, of `surrogate`.

    Both are tensors of one shape and dtype. Where there are no derivatives that is `value`.

    Raises:
        NotImplementedError: on a backend that has some, and no module here.
    """
    if keras.backend.backend() not in WITHOUT_GRADIENTS:
        raise no_kernel("A gradient that is not the function's own")
    return value


def gradient(function: Callable[[Any], tuple[Tensor, Any]], x: Any) -> tuple[Any, Any]:
    """Return the gradient of `function`'s first output, a scalar, at `x`, and its second output.

    The gradient is the like of `x`, a tensor or a structure of tensors. It can be differentiated
    again.

    Raises:
        NotImplementedError: on a backend without a module here: `keras.ops` has no gradients.
    """
    raise no_kernel("A loss that takes a gradient")


def pullback(
    function: Callable[[Sequence[Tensor]], tuple[Sequence[Tensor], Any]], values: Sequence[Tensor]
) -> tuple[Sequence[Tensor], Any, Callable[[int, Sequence[int]], list[Tensor]]]:
    """Call `function` once, for several gradients of what it gives.

    Args:
        function: From tensors to a list of scalars, and to other tensors, in any structure.
        values: What variables hold: where a gradient is taken around this, constants.

    Returns:
        The scalars, the rest, and a function from the index of a scalar and the indices of
        values to the gradients of that scalar with respect to these, constants.

    Raises:
        NotImplementedError: on a backend without a module here: `keras.ops` has no gradients.
    """
    raise no_kernel("A model of several losses")


def is_compiling(value: Any) -> bool:
    """Return whether `value` is not known yet, because its step is being compiled."""
    return False


def compiled_once(function: Callable[..., Any], static: Sequence[str] = ()) -> Callable[..., Any]:
    """Return a function that is compiled where it would be in parts, again and again.

    Args:
        function: From tensors, in tuples and such, to tensors.
        static: The names of its arguments that are no tensors.
    """
    return function


def outside_of_graphs() -> AbstractContextManager[Any]:
    """Return a context where variables are made once, with values, even while a graph is traced."""
    return nullcontext()


def run_if(
    condition: Any,
    step: Callable[..., None],
    arguments: Sequence[Any],
    variables: Callable[[], Sequence[keras.Variable]],
) -> None:
    """Call `step(*arguments)` if `condition` holds; else let all `variables()` keep their values.

    Args:
        condition: `None` for always, a bool, or a scalar boolean tensor.
        step: Assigns to `variables` and returns nothing.
        arguments: What it takes: lists of tensors and variables.
        variables: Lists all that it may assign to.
    """
    if condition is None or bool(condition):
        step(*arguments)


def call_if(condition: Tensor, function: Callable[..., None], tensors: Sequence[Tensor]) -> bool:
    """Call a function of NumPy arrays if a condition turns out to hold.

    An error that the function raises ends the step. It arrives as it is where operations run one
    by one (PyTorch, and all backends outside of compiled functions), inside a `JaxRuntimeError` on
    JAX, and inside an `InvalidArgumentError` on TensorFlow.

    Args:
        condition: A boolean scalar.
        function: What to call. A step that was vectorized may call it where the condition does not
            hold.
        tensors: What it takes.

    Returns:
        Whether the host can be reached from here. From what XLA compiles on TensorFlow
        (`jit_compile=True`) and from transforms of `torch.func` it cannot.
    """
    if bool(condition):
        function(*(ops.convert_to_numpy(x) for x in tensors))
    return True


def compute_before_updates(tensors: Iterable[Tensor], variables: Iterable[Any]) -> None:
    """Have the tensors computed before any of the variables is assigned its next value.

    There is nothing to do where a value, once read, never changes.
    """


def recomputations() -> list[Any]:
    """List the functions running now that the backward pass will call once more, innermost first.

    Where a recomputation is traced together with the first pass there is nothing to list.
    """
    return []


def enclose(
    recomputation: Any, owner: Any, context: Callable[[], AbstractContextManager[Any]]
) -> None:
    """Have the backward pass call the function in a context, once for each owner.

    Args:
        recomputation: One of `recomputations()`.
        owner: Who asks for it. A second time is one too many.
        context: Makes the context.
    """


def conv_transpose(
    inputs: Tensor,
    kernel: Tensor,
    strides: tuple[int, ...],
    padding: str,
    output_padding: tuple[int, ...] | None,
    dilation_rate: tuple[int, ...],
    data_format: str,
) -> Tensor:
    """Compute Keras's transposed convolution.

    Args:
        inputs: (batch, …, channels), or (batch, channels, …).
        kernel: (…, outputs, channels).
        strides: One for each axis of space.
        padding: `"valid"` or `"same"`.
        output_padding: One for each axis of space, or `None` for Keras's choice.
        dilation_rate: One for each axis of space.
        data_format: `"channels_last"` or `"channels_first"`.
    """
    return ops.conv_transpose(
        inputs,
        kernel,
        strides=list(strides),
        padding=padding,
        output_padding=output_padding,
        dilation_rate=dilation_rate,
        data_format=data_format,
    )


def host_array(value: Any) -> np.ndarray:
    """Copy the value of a variable or tensor to a NumPy array; impossible in a compiled step."""
    return np.array(
        ops.convert_to_numpy(value.value if isinstance(value, keras.Variable) else value)
    )


def attach(variable: keras.Variable) -> None:
    """Have the variable hold its value, so that it can be read, and set for the next step.

    Raises:
        RuntimeError: if the value is out of reach.
    """


def is_native_variable(value: Any) -> bool:
    """Return whether `value` is a variable of the backend itself that Keras's optimizers take."""
    return False


def count_one(variable: keras.Variable) -> None:
    """Add 1 to a scalar variable."""
    variable.assign_add(1)


def snapshot(variables: Sequence[keras.Variable]) -> list[Any]:
    """Copy the variables' values, so that later assignments leave the copies alone."""
    return [ops.copy(ops.convert_to_tensor(variable)) for variable in variables]


def versions(variables: Sequence[keras.Variable]) -> list[tuple[Any, int]]:
    """Return what `unchanged_since` needs to notice assignments, where Python runs at each step."""
    return []


def unchanged_since(seen: Sequence[tuple[Any, int]], variables: Sequence[keras.Variable]) -> bool:
    """Return whether the variables were left alone since `versions`, without reading them.

    `False` also where this is not known.
    """
    return False


def is_sparse(gradient: Any) -> bool:
    """Return whether the gradient holds only some rows: those looked up in an embedding."""
    return False


def dense(gradient: Any) -> Any:
    """Return the gradient as a tensor of the weight's shape."""
    return gradient


def on_values(function: Callable[[Any], Any], gradient: Any) -> Any:
    """Apply `function` to the numbers that the gradient holds; a sparse one stays sparse.

    Args:
        function: Takes and returns a tensor; it treats each number by itself.
        gradient: A dense or sparse gradient.
    """
    return function(gradient)


def on_rows(function: Callable[[Any, Any], Any], gradient: Any, variable: Any) -> Any:
    """Apply `function` to those rows of a variable and of its gradient that the gradient names."""
    return function(ops.convert_to_tensor(variable), gradient)


def number_of_replicas() -> int:
    """Count the replicas that share a batch under a strategy, each with weights of its own."""
    return 1


def over_replicas(gradients: Sequence[Any]) -> list[Any]:
    """Sum the gradients over all replicas, each of which has only a share of the batch."""
    return list(gradients)


def anywhere(flags: Any) -> Any:
    """Return the flags, each true if it is true on any replica."""
    return flags


def scope_of(weights: Sequence[Any]) -> AbstractContextManager[Any]:
    """Return the scope of the strategy that weights were made under, to make their state in."""
    return nullcontext()


def random_state() -> Any:
    """Return the state of the backend's own global generators of random numbers."""
    return None


def set_random_state(state: Any) -> None:
    """Put the backend's own generators into a state that `random_state` returned."""


def undo_fit(model: Any) -> Callable[[], None]:
    """Return a function that undoes what `fit` leaves behind, or did when it was interrupted.

    It says nothing of variables, attributes that all backends have, and random numbers.
    """
    return lambda: None
