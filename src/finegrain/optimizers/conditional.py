"""Steps that are taken under a condition which only the running program knows.

Each backend needs its own way: torch runs Python at each step; JAX assigns to no variable inside a
branch, so that the step is computed and then chosen or dropped, which the compiler merges into the
update; TensorFlow branches, under a strategy of several replicas outside of their context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from keras import ops


def run_if(
    condition: Any,
    step: Callable[..., None],
    arguments: Sequence[Any],
    variables: Callable[[], Sequence[keras.Variable]],
) -> None:
    """Calls `step(*arguments)` if `condition` holds; else all `variables()` keep their values.

    Args:
        condition: `None` for always, a bool, or a scalar boolean tensor.
        step: Assigns to `variables` and returns nothing.
        arguments: What it takes: lists of tensors and variables.
        variables: Lists all that it may assign to.
    """
    if condition is None or isinstance(condition, bool):
        if condition is not False:
            step(*arguments)
        return
    backend = keras.backend.backend()
    if backend == "torch" or (backend == "jax" and not is_traced(condition)):
        if bool(condition):
            step(*arguments)
    elif backend == "tensorflow":
        _run_if_on_tensorflow(condition, step, arguments)
    else:
        targets = list(variables())
        before = [variable.value for variable in targets]
        step(*arguments)
        for variable, old in zip(targets, before, strict=True):
            variable.assign(ops.where(condition, variable.value, old))


def _run_if_on_tensorflow(
    condition: Any, step: Callable[..., None], arguments: Sequence[Any]
) -> None:
    import tensorflow as tf

    def nothing() -> None:
        return None

    if not tf.distribute.has_strategy() or (
        tf.__internal__.distribute.strategy_supports_no_merge_call()
    ):
        tf.cond(condition, lambda: step(*arguments), nothing)
        return

    # The step merges the replicas, which TensorFlow forbids inside a branch of one replica.
    def in_cross_replica_context(distribution: Any, condition: Any, *arguments: Any) -> None:
        local = distribution.experimental_local_results(condition)[0]

        def on_each_replica() -> None:
            distribution.extended.call_for_each_replica(step, args=arguments)

        tf.cond(local, on_each_replica, nothing)

    tf.distribute.get_replica_context().merge_call(
        in_cross_replica_context, args=(condition, *arguments)
    )


def outside_of_graphs() -> AbstractContextManager[Any]:
    """On TensorFlow, a context in which variables have values, also while a graph is traced."""
    if keras.backend.backend() != "tensorflow":
        return nullcontext()
    import tensorflow as tf

    return tf.init_scope()


def scope_of(weights: Sequence[Any]) -> AbstractContextManager[Any]:
    """The scope of the TensorFlow strategy that weights were made under, to make their state in.

    Made outside of it, state would have one copy, which each replica would move.
    """
    if keras.backend.backend() != "tensorflow" or not weights:
        return nullcontext()
    import tensorflow as tf

    weight = weights[0]
    value = weight.value if isinstance(weight, keras.Variable) else weight
    strategy = getattr(value, "distribute_strategy", None)
    if strategy is None or strategy is tf.distribute.get_strategy():
        return nullcontext()
    return strategy.scope()


def is_traced(value: Any) -> bool:
    """Whether `value` stands for one that a compiled program of JAX will know."""
    if keras.backend.backend() != "jax":
        return False
    from jax.core import Tracer

    return isinstance(value, Tracer)


def is_compiling(value: Any) -> bool:
    """Whether the step that computes `value` is being compiled, so that it has no value yet."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return not tf.executing_eagerly()
    return is_traced(value)


def anywhere(flags: Any) -> Any:
    """Flags, true where they are true on any replica of a TensorFlow strategy."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if tf.distribute.has_strategy() and tf.distribute.get_replica_context() is not None:
            replicas = tf.distribute.get_replica_context()
            total = replicas.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(flags, tf.int32))
            return total > 0
    return flags


def unchanged_since(seen: Sequence[tuple[Any, int]], variables: Sequence[keras.Variable]) -> bool:
    """Whether torch variables hold what they held when `versions` was asked, without reading it."""
    return len(seen) == len(variables) and all(
        value is variable.value and version == value._version
        for (value, version), variable in zip(seen, variables, strict=True)
    )


def versions(variables: Sequence[keras.Variable]) -> list[tuple[Any, int]]:
    """What tells later whether torch variables were assigned to."""
    return [(variable.value, variable.value._version) for variable in variables]


def count_one(variable: keras.Variable) -> None:
    """Adds 1 to a scalar variable; on torch without the detours of `assign_add`."""
    if keras.backend.backend() == "torch":
        variable.value.add_(1)
    else:
        variable.assign_add(1)


def both(first: Any, second: Any) -> Any:
    """Whether two conditions hold; `None` stands for always."""
    if first is None or second is None:
        return second if first is None else first
    if isinstance(first, bool) or isinstance(second, bool):
        if first is False or second is False:
            return False
        return second if isinstance(first, bool) else first
    return ops.logical_and(first, second)
