"""JAX: whatever is traced is a function of its inputs, compiled as a whole."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax.core import Tracer
from keras import ops

from finegrain._backend import neutral, transposed_convolution

Tensor = Any

BUILDS_ON_A_BATCH = True
COUNTS_TOGETHER = True  # each variable of a program is work
UNDOES_FAILED_STEPS = True


# Not `jax.custom_vjp`, which has no forward mode and so no `jax.hessian`.
@jax.custom_jvp
def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value`, with the derivatives of `surrogate`."""
    return value


@straight_through.defjvp
def _(primals: tuple[Tensor, Tensor], tangents: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    # Through `straight_through` again: derivatives of the derivative are the surrogate's as well.
    return straight_through(*primals), tangents[1]


def gradient(function: Callable[[Any], tuple[Tensor, Any]], x: Any) -> tuple[Any, Any]:
    """Return the gradient of `function`'s first output at `x`, and its second output."""
    return jax.grad(function, has_aux=True)(x)


def pullback(
    function: Callable[[Sequence[Tensor]], tuple[Sequence[Tensor], Any]], values: Sequence[Tensor]
) -> tuple[Sequence[Tensor], Any, Callable[[int, Sequence[int]], list[Tensor]]]:
    """Call `function` on the values, and return its two outputs and a function for gradients."""
    constants = [jax.lax.stop_gradient(value) for value in values]
    outputs, transposed, rest = jax.vjp(function, constants, has_aux=True)

    def pull(output: int, wanted: Sequence[int]) -> list[Tensor]:
        # Compiled, what leads to other values' gradients alone is not computed.
        seeds = [
            (jnp.ones_like if index == output else jnp.zeros_like)(value)
            for index, value in enumerate(outputs)
        ]
        (gradients,) = transposed(seeds)
        return [gradients[index] for index in wanted]

    return outputs, rest, pull


def conv_transpose(
    inputs: Tensor,
    kernel: Tensor,
    strides: tuple[int, ...],
    padding: str,
    output_padding: tuple[int, ...] | None,
    dilation_rate: tuple[int, ...],
    data_format: str,
) -> Tensor:
    """Compute Keras's transposed convolution with the gradients of the strided one."""
    channels = -1 if data_format == "channels_last" else 1
    fits = inputs.dtype == kernel.dtype and inputs.shape[channels] == kernel.shape[-1]
    if max(strides) == 1 or not fits:  # gradients are fast, or Keras says what is wrong
        return neutral.conv_transpose(
            inputs, kernel, strides, padding, output_padding, dilation_rate, data_format
        )
    size = inputs.shape[1:-1] if channels == -1 else inputs.shape[2:]
    how = transposed_convolution.geometry(
        size, kernel.shape[:-2], strides, padding, output_padding, dilation_rate, data_format
    )
    return transposed_convolution.transposed(inputs, kernel, how)


def is_compiling(value: Any) -> bool:
    """Return whether `value` is a tracer, whose value only the compiled program will know."""
    return isinstance(value, Tracer)


def compiled_once(function: Callable[..., Any], static: Sequence[str] = ()) -> Callable[..., Any]:
    """Return a function that is compiled for each shape once, unless a compiled one calls it.

    By itself each loop of a function is compiled anew in every call, which takes a second, and
    memory that is not given back.
    """
    whole = jax.jit(function, static_argnames=static)

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        leaves = jax.tree.leaves((arguments, options))
        traced = any(isinstance(leaf, Tracer) for leaf in leaves)
        return (function if traced else whole)(*arguments, **options)

    return call


def run_if(
    condition: Any,
    step: Callable[..., None],
    arguments: Sequence[Any],
    variables: Callable[[], Sequence[keras.Variable]],
) -> None:
    """Take the step, then keep what it assigned only if `condition` holds.

    The compiler merges this choice into the update. A branch cannot assign to variables. Outside
    of compiled programs, the step is only taken if `condition` holds.
    """
    if not is_compiling(condition):
        neutral.run_if(condition, step, arguments, variables)
        return
    targets = list(variables())
    before = [variable.value for variable in targets]
    step(*arguments)
    for variable, old in zip(targets, before, strict=True):
        variable.assign(ops.where(condition, variable.value, old))


def call_if(condition: Tensor, function: Callable[..., None], tensors: Sequence[Tensor]) -> bool:
    """Call `function` on the host if `condition` holds, in a compiled program by a callback."""
    if not is_compiling(condition):
        return neutral.call_if(condition, function, tensors)
    arguments = tuple(jax.lax.stop_gradient(x) for x in tensors)
    jax.lax.cond(condition, lambda: jax.debug.callback(function, *arguments), lambda: None)
    return True


def attach(variable: keras.Variable) -> None:
    """Have the model that is at work give its variables their values.

    In the middle of an epoch a compiled step holds them. Keras gives them back when a callback asks
    for its model, and then reads them anew for the next step; a layer does not know its model, but
    `fit`, whose callbacks run inside of it, is on the stack.
    """
    if variable._value is not None or variable._initializer is not None:
        return
    frame = sys._getframe()
    while frame is not None:
        model: Any = frame.f_locals.get("self")
        if isinstance(model, keras.Model) and any(v is variable for v in model.variables):
            model.jax_state_sync()
            if variable._value is not None:
                return
        frame = frame.f_back
    raise RuntimeError(
        "The value is in a compiled step of JAX: read or set it in a callback of the `fit` that "
        "takes the step, from the same thread, or once it is over. "
        f"Received: variable {variable.path!r}"
    )


def snapshot(variables: Sequence[keras.Variable]) -> list[Any]:
    """Return the variables' arrays themselves, not copies: arrays never change."""
    return [variable.value for variable in variables]


def undo_fit(model: Any) -> Callable[[], None]:
    """Return a function that has the model forget the state of a compiled program.

    An interrupted `fit` leaves arrays there that the program has deleted, and Keras would assign
    them to the variables later.
    """

    def undo() -> None:
        model._jax_state, model._jax_state_synced = None, True

    return undo
