"""TensorFlow: graphs, gradients that hold some rows only, and strategies of several replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from finegrain._backend import neutral
from finegrain._backend.neutral import (
    CHECKS_INDICES,
    COUNTS_TOGETHER,
    RUNS_EACH_STEP,
    UNDOES_FAILED_STEPS,
    count_one,
    lists,
    moment_step,
    snapshot,
    unchanged_since,
    versions,
)

Tensor = Any

__all__ = [
    "CHECKS_INDICES",
    "COUNTS_TOGETHER",
    "RUNS_EACH_STEP",
    "UNDOES_FAILED_STEPS",
    "anywhere",
    "call_if",
    "compute_before_updates",
    "count_one",
    "dense",
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
    "run_if",
    "scope_of",
    "snapshot",
    "straight_through",
    "unchanged_since",
    "versions",
]


@tf.custom_gradient
def straight_through(value: Tensor, surrogate: Tensor) -> tuple[Tensor, Callable[..., Any]]:
    """`value`, with the derivatives of `surrogate`."""
    return tf.identity(value), lambda upstream: (None, upstream)


def gradient(function: Callable[[Tensor], tuple[Tensor, Any]], x: Tensor) -> tuple[Tensor, Any]:
    """The gradient of the first output of `function` at `x`, and the second output."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value, rest = function(x)
    return tape.gradient(value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO), rest


def compute_before_updates(tensors: Iterable[Tensor], variables: Iterable[Any]) -> None:
    """Has the tensors computed before any of the Keras variables is assigned its next value.

    TensorFlow orders each reading of a variable before the next assignment by an edge, which its
    graph optimizer takes away where it sees a longer way from the one to the other. Keras hands
    gradients on in one bundle, so that such a way leads through the gradients of other weights;
    and in its next pass the optimizer opens the bundle. What was read for the gradients of others
    alone is then ordered no more, and sometimes the assignment comes first. From a reading that
    nobody uses there is no longer way.
    """
    if tf.executing_eagerly():
        return
    with tf.control_dependencies(list(tensors)):
        for variable in variables:
            variable._value.read_value()


def is_compiling(value: Any) -> bool:
    """Whether a graph is traced."""
    return not tf.executing_eagerly()


def outside_of_graphs() -> AbstractContextManager[Any]:
    """The outermost context, in which operations run one by one."""
    return tf.init_scope()


def run_if(
    condition: Any,
    step: Callable[..., None],
    arguments: Sequence[Any],
    variables: Callable[[], Sequence[keras.Variable]],
) -> None:
    """Branches; under a strategy of several replicas outside of their context."""
    if condition is None or isinstance(condition, bool):
        neutral.run_if(condition, step, arguments, variables)
        return

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


def call_if(condition: Tensor, function: Callable[..., None], tensors: Sequence[Tensor]) -> bool:
    """Calls the host, in a graph by `tf.py_function`, which XLA does not know."""
    if tf.executing_eagerly():
        return neutral.call_if(condition, function, tensors)
    if GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return False

    def call() -> Any:
        def report(*values: Any) -> None:
            function(*(np.asarray(value) for value in values))

        return tf.py_function(report, [tf.stop_gradient(x) for x in tensors], [])

    tf.cond(condition, call, tf.no_op)
    return True


def host_array(value: Any) -> np.ndarray:
    """A copy of what a variable or a tensor holds; not inside a graph.

    Inside the scope of a strategy, a variable with a copy on each replica cannot be converted: its
    own `numpy()` asks the first replica.
    """
    value = value.value if isinstance(value, keras.Variable) else value
    return np.array(value.numpy() if hasattr(value, "numpy") else ops.convert_to_numpy(value))


def is_native_variable(value: Any) -> bool:
    """Whether `value` is a `tf.Variable`."""
    return isinstance(value, tf.Variable)


def is_sparse(gradient: Any) -> bool:
    """Whether the gradient is an `IndexedSlices`."""
    return isinstance(gradient, tf.IndexedSlices)


def dense(gradient: Any) -> Any:
    """The gradient as a tensor, with the sum of what rows got that were looked up several times."""
    # Keras's conversion would keep one of them.
    return tf.convert_to_tensor(gradient) if is_sparse(gradient) else gradient


def on_values(function: Callable[[Any], Any], gradient: Any) -> Any:
    """`function` of the rows that are there, in the place of them."""
    if not is_sparse(gradient):
        return function(gradient)
    values = function(gradient.values)
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)


def on_rows(function: Callable[[Any, Any], Any], gradient: Any, variable: Any) -> Any:
    """`function` of the rows that are there, each with the sum of its gradients, in their place."""
    if not is_sparse(gradient):
        return neutral.on_rows(function, gradient, variable)
    # A row that was looked up several times has several gradients: each of them gets their
    # sum, so that all write the same row. (tf.unique would shape the program by its data.)
    indices = gradient.indices
    count = tf.size(indices)
    first = tf.math.unsorted_segment_min(tf.range(count), indices, variable.shape[0])
    place = tf.gather(first, indices)
    sums = tf.math.unsorted_segment_sum(gradient.values, place, count)
    rows = function(tf.gather(variable, indices), tf.gather(sums, place))
    return tf.IndexedSlices(rows, indices, gradient.dense_shape)


def number_of_replicas() -> int:
    """Those of the strategy around."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def over_replicas(gradients: Sequence[Any]) -> list[Any]:
    """The sums over all replicas."""
    replicas = tf.distribute.get_replica_context()
    if replicas is None or replicas.num_replicas_in_sync == 1:
        return list(gradients)
    shares = [dense(gradient) for gradient in gradients if gradient is not None]
    sums = iter(replicas.all_reduce(tf.distribute.ReduceOp.SUM, shares))
    return [None if gradient is None else next(sums) for gradient in gradients]


def anywhere(flags: Any) -> Any:
    """Flags, true where they are true on any replica."""
    if tf.distribute.has_strategy() and tf.distribute.get_replica_context() is not None:
        replicas = tf.distribute.get_replica_context()
        total = replicas.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(flags, tf.int32))
        return total > 0
    return flags


def scope_of(weights: Sequence[Any]) -> AbstractContextManager[Any]:
    """The scope of the strategy of the first weight, if it is another than the one around.

    Made outside of it, state would have one copy, which each replica would move.
    """
    if not weights:
        return nullcontext()
    value = weights[0].value if isinstance(weights[0], keras.Variable) else weights[0]
    strategy = getattr(value, "distribute_strategy", None)
    if strategy is None or strategy is tf.distribute.get_strategy():
        return nullcontext()
    return strategy.scope()
