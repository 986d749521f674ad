"""PyTorch: operations run one by one, and Python runs at each step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import torch
import torch.utils.checkpoint
from keras import ops

from finegrain._backend import foreach, neutral

Tensor = torch.Tensor

lists = foreach
moment_step = foreach.moment_step
BUILDS_ON_A_BATCH = True
RUNS_EACH_STEP = True
CHECKS_INDICES = True


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True  # for torch.func

    @staticmethod
    def forward(value: Tensor, surrogate: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing for the backward pass."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return tangents[1].view_as(tangents[1])


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value`, with the derivatives of `surrogate`."""
    return _StraightThrough.apply(value, surrogate)


def gradient(function: Callable[[Any], tuple[Tensor, Any]], x: Any) -> tuple[Any, Any]:
    """Return the gradient of `function`'s first output at `x`, and its second output."""
    kept = torch.is_grad_enabled()
    with torch.enable_grad():  # also where an evaluation has switched it off
        x = keras.tree.map_structure(
            lambda leaf: leaf if leaf.requires_grad else leaf.detach().requires_grad_(), x
        )
        value, rest = function(x)
        leaves = keras.tree.flatten(x)
        slopes = [torch.zeros_like(leaf) for leaf in leaves]
        if value.requires_grad:
            slopes = torch.autograd.grad(
                value, leaves, create_graph=kept, allow_unused=True, materialize_grads=True
            )
    if not kept:
        slopes, rest = keras.tree.map_structure(lambda leaf: leaf.detach(), (list(slopes), rest))
    return keras.tree.pack_sequence_as(x, list(slopes)), rest


def pullback(
    function: Callable[[Sequence[Tensor]], tuple[Sequence[Tensor], Any]], values: Sequence[Tensor]
) -> tuple[Sequence[Tensor], Any, Callable[[int, Sequence[int]], list[Tensor]]]:
    """Call `function` on the values, and return its two outputs and a function for gradients."""
    outputs, rest = function(values)

    def pull(output: int, wanted: Sequence[int]) -> list[Tensor]:
        sources = [values[index] for index in wanted]
        if not outputs[output].requires_grad:
            return [torch.zeros_like(source) for source in sources]
        gradients = torch.autograd.grad(
            outputs[output], sources, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return list(gradients)

    return [output.detach() for output in outputs], rest, pull


def recomputations() -> list[Any]:
    """List the records of `torch.utils.checkpoint` for the functions that it is calling.

    PyTorch takes a context for the recomputation (`context_fn`) from the caller of `checkpoint`
    alone, and `keras.remat`, which is that caller, gives none. So the records are read off the
    stack; they are there while the hooks that save the function's tensors are.
    """
    if torch.compiler.is_compiling():
        return []
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)  # pyright: ignore[reportAttributeAccessIssue]
    if hooks is None or not hooks[0].__qualname__.startswith("_checkpoint_hook."):
        return []
    found, frame = [], sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            steps = getattr(frame.f_locals.get("gen"), "gi_frame", None)
            record = None if steps is None else steps.f_locals.get("new_frame")
            if hasattr(record, "recompute_fn"):
                found.append(record)
        frame = frame.f_back
    if not found:
        raise NotImplementedError(
            "finegrain cannot follow the rematerialization of this version of PyTorch, which would "
            "compute with other weights than the layer was called with. Make the layer outside of "
            f"keras.RematScope and without keras.remat. Received: torch {torch.__version__}"
        )
    return found


class _Enclosed:
    """A function in a context that is made for each call."""

    def __init__(
        self, function: Any, owner: Any, context: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self.function, self.owner, self.context = function, owner, context

    def __call__(self, *arguments: Any) -> None:
        with self.context():
            self.function(*arguments)

    def has(self, owner: Any) -> bool:
        inner = self.function
        return self.owner is owner or (isinstance(inner, _Enclosed) and inner.has(owner))


def enclose(
    recomputation: Any, owner: Any, context: Callable[[], AbstractContextManager[Any]]
) -> None:
    """Have the backward pass call the function in a context, once for each owner."""
    function = recomputation.recompute_fn
    if not (isinstance(function, _Enclosed) and function.has(owner)):
        recomputation.recompute_fn = _Enclosed(function, owner, context)


def call_if(condition: Tensor, function: Callable[..., None], tensors: Sequence[Tensor]) -> bool:
    """Call `function` on the host if `condition` holds; a compiled step is interrupted for it."""
    if torch._C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    # A value from the host cannot be traced.
    uncompiled: Any = torch.compiler.disable(neutral.call_if)
    return uncompiled(condition, function, tensors)


def count_one(variable: keras.Variable) -> None:
    """Add 1 to a scalar variable, without the detours of `assign_add`."""
    variable.value.add_(1)


def snapshot(variables: Sequence[keras.Variable]) -> list[Any]:
    """Copy the variables' values."""
    return [ops.copy(variable.value) for variable in variables]


def versions(variables: Sequence[keras.Variable]) -> list[tuple[Any, int]]:
    """Return the variables' tensors, and how often each was written to."""
    return [(variable.value, variable.value._version) for variable in variables]


def unchanged_since(seen: Sequence[tuple[Any, int]], variables: Sequence[keras.Variable]) -> bool:
    """Return whether the variables have the same tensors, not written to since."""
    return len(seen) == len(variables) and all(
        value is variable.value and version == value._version
        for (value, version), variable in zip(seen, variables, strict=True)
    )


def random_state() -> Any:
    """Return the states of the generators of the host and of all CUDA devices in use."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), devices


def set_random_state(state: Any) -> None:
    """Put the generators into these states."""
    host, devices = state
    torch.set_rng_state(host)
    if devices is not None:
        torch.cuda.set_rng_state_all(devices)


def undo_fit(model: Any) -> Callable[[], None]:
    """Return a function that puts the modules' modes back, and frees the gradients."""
    # Keras's layers are not all modules of their model.
    modules = {module for layer in model._flatten_layers() for module in layer.modules()}
    modes = [(module, module.training) for module in modules]

    def undo() -> None:
        for module, mode in modes:
            module.training = mode
        model.zero_grad()

    return undo
