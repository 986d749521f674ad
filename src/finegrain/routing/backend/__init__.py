"""What each backend does in its own way: derivatives that are not those of the function, and order.

`backend` is the module of the present backend. All three have the same functions:
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

backend: Any = importlib.import_module(f"finegrain.routing.backend.on_{keras.backend.backend()}")
