"""Reading other values in the place of a layer's variables, while it is called."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops

from finegrain._backend import backend

Tensor = Any


class Overlay(keras.StatelessScope):
    """A scope that reads some variables as other tensors, and all others as the outer scope does.

    Keras's own scope does not nest: it would read variables outside of its mapping as they were
    before tracing, not as the outer scope has them. Values that are assigned inside stay inside,
    and `updates` returns them. Losses that are added inside stay in `losses`.

    What is rematerialized inside (`keras.RematScope`, `keras.remat`) reads the same values when the
    backward pass computes it again; what it assigns and adds then is forgotten.

    Args:
        variables: The variables to be read differently.
        read: From a variable and its value around, in its own dtype, to the tensor to read.
        same: Whether that tensor has the same value as the variable, only without its gradient.
    """

    def __init__(
        self,
        variables: Iterable[Any] = (),
        read: Callable[[Any, Tensor], Tensor] = lambda variable, value: value,
        *,
        same: bool = False,
    ) -> None:
        super().__init__(collect_losses=True)
        self.variables = list(variables)
        self.read = read
        self.same = same
        self.values: dict[int, Tensor] = {}
        self.assigned: dict[int, tuple[Any, Tensor]] = {}
        self.before: dict[int, Tensor] = {}
        self.around: list[Any] = []

    def __enter__(self) -> Overlay:
        super().__enter__()
        self.around = backend.recomputations()
        # Read all of them here: the first use may be inside a loop or a condition.
        for variable in self.variables:
            value = self._value_around(variable)
            if value is not None:
                self.values[id(variable)] = self.read(variable, value)
        return self

    def get_current_value(self, variable: Any) -> Tensor | None:
        """Return the value that the variable is read as, or `None` for its own value."""
        key = id(variable)
        differs = key in self.values and not (self.same and variable.trainable)
        self._follow_recomputations(differs or key in self.assigned)
        if key in self.assigned:
            return self.assigned[key][1]
        if key in self.values:
            return self.values[key]
        outer = self.original_scope
        return None if outer is None else outer.get_current_value(variable)

    def _value_around(self, variable: Any) -> Tensor | None:
        # `variable.value` would be cast under mixed precision.
        outer = self.original_scope
        value = None if outer is None else outer.get_current_value(variable)
        return variable._value if value is None else value

    def add_update(self, update: tuple[Any, Tensor]) -> None:
        """Keep the new value of a variable, without assigning it outside."""
        variable, _ = update
        if self._follow_recomputations(differs=True) and id(variable) not in self.assigned:
            # A copy: where recomputations come later, assignments may write over the value.
            value = self.values.get(id(variable))
            value = self._value_around(variable) if value is None else value
            self.before[id(variable)] = ops.copy(ops.stop_gradient(value))
        self.assigned[id(update[0])] = update

    def _follow_recomputations(self, differs: bool) -> bool:
        """Have the functions that will be computed again read then what they read now.

        Return whether there are any.

        Args:
            differs: Whether they are about to read or to write what they would not find then.
        """
        all_of_them = backend.recomputations()
        inside = all_of_them[: len(all_of_them) - len(self.around)]
        if inside and (differs or backend.ENCLOSES_RECOMPUTATIONS):
            assigned = dict(self.assigned)
            for recomputation in inside:
                backend.enclose(recomputation, self, lambda: self._again(assigned))
            if isinstance(self.original_scope, Overlay):
                self.original_scope._follow_recomputations(differs)
        return bool(inside)

    def _again(self, assigned: dict[int, tuple[Any, Tensor]]) -> Overlay:
        """Make a scope like this one as it was when these values had been assigned."""
        scope = Overlay()
        scope.values = self.values | self.before
        scope.assigned = dict(assigned)
        return scope

    def updates(self) -> list[tuple[Any, Tensor]]:
        """Return the variables that were assigned to, each with its last value."""
        return list(self.assigned.values())

    def assign_statistics(self) -> None:
        """Assign the new values of variables that are not trained, in the outer scope.

        Call this after leaving the scope.
        """
        for variable, value in self.statistics():
            variable.assign(value)

    def statistics(self) -> list[tuple[Any, Tensor]]:
        """Return the variables that are not trained and were assigned to, each with its last value.

        What was assigned to trained ones is dropped, with a warning. To carry it out would change
        on PyTorch what the backward pass of this call and of others needs; on JAX a compiled step
        returns no such value; and the optimizer would apply the gradient at one weight to another.
        """
        dropped = [variable.path for variable, _ in self.updates() if variable.trainable]
        if dropped:
            warnings.warn(
                "A layer assigns to weights that are trained, in its call. Under "
                "`constant_weights` and in a GAN the value serves this call and is forgotten, so "
                "that inference computes with other weights than training did. In the place of "
                "keras.layers.SpectralNormalization take finegrain.layers.SpectralNormalization, "
                "which assigns nothing; in layers of your own give such weights trainable=False. "
                f"Received assignments to: {', '.join(dropped)}",
                stacklevel=2,
            )
        return [(variable, value) for variable, value in self.updates() if not variable.trainable]

    def forward_losses(self, layer: keras.layers.Layer) -> None:
        """Pass the losses on, once each, to where `layer` has its own.

        Call this after leaving the scope.
        """
        outer = self.original_scope
        for loss in self.losses:
            # The layer that added the loss knows it by its id and finds it in the outer scope:
            # `layer.add_loss` there would count it a second time.
            if outer is None:
                layer.add_loss(loss)
            elif outer.collect_losses:
                outer.add_loss(loss)


def is_built(layer: keras.layers.Layer) -> bool:
    """Return whether the layer and all its parts have their weights."""
    return all(part.built for part in layer._flatten_layers())


def create_weights(layer: keras.layers.Layer, args: Any, kwargs: Any) -> None:
    """Create the weights of the layer by calling it on the shapes of these arguments.

    Unlike `build`, this serves layers of several inputs and layers without a `build` of their own.
    """

    def symbolic(value: Any) -> Any:
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            return value
        return keras.KerasTensor(value.shape, keras.backend.standardize_dtype(value.dtype))

    args, kwargs = keras.tree.map_structure(symbolic, (args, kwargs))
    try:
        layer(*args, **kwargs)
    except Exception:
        # A layer that cannot be traced works in eager mode once it has its weights.
        if not is_built(layer):
            raise
