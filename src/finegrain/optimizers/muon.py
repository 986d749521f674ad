"""Muon for kernels with any number of axes."""

from __future__ import annotations

import re
from math import prod
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="finegrain")
class Muon(keras.optimizers.Muon):
    r"""Moves each kernel by a matrix whose singular values are all about one.

    Keras's Muon takes kernels with two axes, and leaves those of attention, which have three, to
    its inner AdamW. This one is told what the axes stand for, and takes a weight with so many as a
    matrix of inputs × outputs, or as several. All else is as in Keras: other weights, and those
    with "embedding" in their paths, are left to the inner AdamW. `finegrain.recipes.muon` sorts
    the weights of a model by what they are, not by their names.

    With the momentum $M$ of the gradient, $M = U \Sigma V^\top$, the step is
    $-\eta\, s\, U V^\top$, where $s = 0.2 \sqrt{\max(n, m)}$ for $n$ inputs and $m$ outputs makes
    the step about as large as one of AdamW. $U V^\top$ is approximated by five Newton-Schulz
    iterations.

    Args:
        learning_rate: A float, a schedule or a function, as Keras's optimizers take.
        axes: A letter for each axis of the weights: `i` for inputs, `o` for outputs, `b` for
            matrices that stand side by side. `"ioo"` is the kernel of a query, (width, heads,
            size), `"iio"` that of attention's output, `"bio"` that of experts.
        **arguments: Those of `keras.optimizers.Muon`.

    Raises:
        ValueError: if `axes` has no input or no output, or other letters.

    Example:
    >>> import keras, finegrain as fg
    >>> from keras import ops
    >>> query = keras.Variable(ops.zeros((2, 2, 2)))
    >>> optimizer = fg.optimizers.Muon(0.1, axes="ioo", rms_rate=None, weight_decay=None)
    >>> gradient = ops.reshape(ops.eye(2, 4), (2, 2, 2))
    >>> optimizer.apply([gradient], [query])
    >>> print(ops.convert_to_numpy(ops.reshape(query, (2, 4))).round(1))
    [[-0.1  0.   0.   0. ]
     [ 0.  -0.1  0.   0. ]]

    References:
        Keller Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024,
        https://kellerjordan.github.io/posts/muon/

        Jingyuan Liu et al., Muon is scalable for LLM training, 2025,
        https://arxiv.org/abs/2502.16982
    """

    def __init__(
        self, learning_rate: Any = 0.001, *, axes: str = "io", name: str = "muon", **arguments: Any
    ) -> None:
        if not isinstance(axes, str) or not {"i", "o"} <= set(axes) <= {"i", "o", "b"}:
            raise ValueError(
                "`axes` should say of each axis whether it is inputs, outputs or a batch of "
                f"matrices, as 'io', 'ioo' or 'bio' do. Received: axes={axes!r}"
            )
        super().__init__(learning_rate=learning_rate, name=name, **arguments)
        self.axes = axes

    def _should_use_adamw(self, variable: Any) -> bool:
        path = variable.path
        return (
            len(variable.shape) != len(self.axes)
            or (self.exclude_embeddings and "embedding" in path.lower())
            or any(re.search(keyword, path) for keyword in self.exclude_layers)
        )

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        order = [i for kind in "bio" for i, axis in enumerate(self.axes) if axis == kind]
        shape = [variable.shape[axis] for axis in order]
        batch, inputs = (self.axes.count(kind) for kind in "bi")
        matrices = (prod(shape[batch : batch + inputs]), prod(shape[batch + inputs :]))
        self.assign_add(m, ops.add(gradient, m * (self.momentum - 1)))
        direction = ops.add(gradient, self.momentum * m) if self.nesterov else ops.copy(m)
        direction = ops.reshape(ops.transpose(direction, order), (*shape[:batch], *matrices))
        update = self.zeropower_via_newtonschulz5(direction, self.ns_steps)
        if self.rms_rate is not None:
            update = update * (max(matrices) ** 0.5 * self.rms_rate)
        update = ops.transpose(
            ops.reshape(update, shape), [order.index(i) for i in range(len(order))]
        )
        self.assign_sub(variable, ops.cast(lr, variable.dtype) * update)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer."""
        return super().get_config() | {"axes": self.axes}
