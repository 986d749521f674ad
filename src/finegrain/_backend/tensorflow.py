"""TensorFlow: graphs, gradients that hold some rows only, and strategies of several replicas."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import context
from tensorflow.python.ops import custom_gradient
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from finegrain._backend import neutral

Tensor = Any

ENCLOSES_RECOMPUTATIONS = False


@tf.custom_gradient
def straight_through(value: Tensor, surrogate: Tensor) -> tuple[Tensor, Callable[..., Any]]:
    """Return `value`, with the derivatives of `surrogate`."""
    return tf.identity(value), lambda upstream: (None, upstream)


def gradient(function: Callable[[Any], tuple[Tensor, Any]], x: Any) -> tuple[Any, Any]:
    """Return the gradient of `function`'s first output at `x`, and its second output."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value, rest = function(x)
    slopes = tape.gradient(value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return keras.tree.map_structure(dense, slopes), rest


def pullback(
    function: Callable[[Sequence[Tensor]], tuple[Sequence[Tensor], Any]], values: Sequence[Tensor]
) -> tuple[Sequence[Tensor], Any, Callable[[int, Sequence[int]], list[Tensor]]]:
    """Call `function` on the values, and return its two outputs and a function for gradients."""
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(values)
        outputs, rest = function(values)

    def pull(output: int, wanted: Sequence[int]) -> list[Tensor]:
        gradients = tape.gradient(
            outputs[output],
            [values[index] for index in wanted],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return [dense(gradient) for gradient in gradients]

    return outputs, rest, pull


def compute_before_updates(tensors: Iterable[Tensor], variables: Iterable[Any]) -> None:
    """Have the tensors computed before any of the Keras variables is assigned its next value.

    TensorFlow puts an edge between each read of a variable and the next assignment, so that the
    read comes first. Its graph optimizer removes the edge where a longer path leads from the read
    to the assignment. Keras passes gradients on in one bundle, so that such a path leads through
    the gradients of other weights; in its next pass, the optimizer opens the bundle and the path
    is gone. A read that serves only the gradients of other weights is then no longer ordered, and
    sometimes the assignment comes first. So each variable is read once more, after the tensors.
    Nothing uses that read: its edge is the only path to the assignment, and stays.
    """
    if tf.executing_eagerly():
        return
    with tf.control_dependencies(list(tensors)):
        for variable in variables:
            variable._value.read_value()


def recomputations() -> list[Any]:
    """Find the calls of `tf.recompute_grad` that the present one is part of."""
    if not pywrap_tfe.TFE_Py_TapeSetIsStopped():  # as they have it
        return []
    found, frame = [], sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "inner" and code.co_filename == custom_gradient.__file__:
            found.append(code.co_name)
        frame = frame.f_back
    return found


def enclose(
    recomputation: Any, owner: Any, context: Callable[[], AbstractContextManager[Any]]
) -> None:
    """Raise an error: what the function reads of others has no gradient on TensorFlow."""
    raise NotImplementedError(
        "On TensorFlow the backward pass of keras.RematScope and keras.remat reads a layer's own "
        "variables, while the layer was called here with other values. Make the layer without "
        "rematerialization, or use the backend torch or jax, which can do this."
    )


def is_compiling(value: Any) -> bool:
    """Return whether a graph is being traced."""
    return not tf.executing_eagerly()


def outside_of_graphs() -> AbstractContextManager[Any]:
    """Return the outermost context, in which operations run one by one."""
    return tf.init_scope()


def run_if(
    condition: Any,
    step: Callable[..., None],
    arguments: Sequence[Any],
    variables: Callable[[], Sequence[keras.Variable]],
) -> None:
    """Take the step in a branch; under a strategy of several replicas, outside of their context."""
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
    """Call `function` on the host if `condition` holds, in a graph by `tf.py_function`.

    XLA does not know `tf.py_function`.
    """
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
    """Copy the value of a variable or tensor to a NumPy array; impossible in a graph.

    Inside the scope of a strategy, `keras.ops` cannot convert a variable with a copy on each
    replica. The variable's own `numpy()` reads the copy on the first replica.
    """
    value = value.value if isinstance(value, keras.Variable) else value
    return np.array(value.numpy() if hasattr(value, "numpy") else ops.convert_to_numpy(value))


def is_native_variable(value: Any) -> bool:
    """Return whether `value` is a `tf.Variable`."""
    return isinstance(value, tf.Variable)


def is_sparse(gradient: Any) -> bool:
    """Return whether the gradient is an `IndexedSlices`."""
    return isinstance(gradient, tf.IndexedSlices)


def dense(gradient: Any) -> Any:
    """Return the gradient as a tensor; a row looked up several times has its gradients summed."""
    # Keras's conversion would keep one of them.
    return tf.convert_to_tensor(gradient) if is_sparse(gradient) else gradient


def on_values(function: Callable[[Any], Any], gradient: Any) -> Any:
    """Apply `function` to the rows that the gradient holds, and put the results in their place."""
    if not is_sparse(gradient):
        return function(gradient)
    values = function(gradient.values)
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)


def on_rows(function: Callable[[Any, Any], Any], gradient: Any, variable: Any) -> Any:
    """Apply `function` to the rows that the gradient holds, and put the results in their place.

    `function` takes these rows of the variable and, for each, the sum of its gradients.
    """
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
    """Count the replicas of the current strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def over_replicas(gradients: Sequence[Any]) -> list[Any]:
    """Sum the gradients over all replicas."""
    replicas = tf.distribute.get_replica_context()
    if replicas is None or replicas.num_replicas_in_sync == 1:
        return list(gradients)
    shares = [dense(gradient) for gradient in gradients if gradient is not None]
    sums = iter(replicas.all_reduce(tf.distribute.ReduceOp.SUM, shares))
    return [None if gradient is None else next(sums) for gradient in gradients]


def anywhere(flags: Any) -> Any:
    """Return the flags, each true if it is true on any replica."""
    if tf.distribute.has_strategy() and tf.distribute.get_replica_context() is not None:
        replicas = tf.distribute.get_replica_context()
        total = replicas.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(flags, tf.int32))
        return total > 0
    return flags


def scope_of(weights: Sequence[Any]) -> AbstractContextManager[Any]:
    """Return the scope of the first weight's strategy, if that is not the current one.

    State made outside of that scope would have only one copy, which each replica would move.
    """
    if not weights:
        return nullcontext()
    value = weights[0].value if isinstance(weights[0], keras.Variable) else weights[0]
    strategy = getattr(value, "distribute_strategy", None)
    if strategy is None or strategy is tf.distribute.get_strategy():
        return nullcontext()
    return strategy.scope()


def random_state() -> Any:
    """Return the state of what draws the seeds of operations, if the program has set a seed."""
    generator = getattr(context.context(), "_rng", None)
    return None if generator is None else generator.getstate()


def set_random_state(state: Any) -> None:
    """Put it back."""
    if state is not None:
        context.context()._rng.setstate(state)
