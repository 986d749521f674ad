"""What each backend does in its own way: derivatives that are not those of the function, and order.

`backend` is the module of the present backend, `on_others` where finegrain has none for it: values
then, and an error for what needs a gradient. All of them have the same functions:
`straight_through(value, surrogate)`, the value of one tensor with the derivatives of another of
the same shape and dtype, of any order; `gradient(function, x)`, the gradient at a tensor x of
a function to `(scalar, anything)`, which can be differentiated again, and what else it returned;
and `compute_before_updates(tensors, variables)`, for tensors that are computed from the values of
variables which are about to change.
"""

from __future__ import annotations

import importlib
from typing import Any

import keras

from finegrain.backends import has_kernels

_name = keras.backend.backend() if has_kernels() else "others"
backend: Any = importlib.import_module(f"finegrain.routing.backend.on_{_name}")
