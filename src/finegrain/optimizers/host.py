"""What variables hold, as arrays; not inside a compiled step."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


def host_array(value: Any) -> np.ndarray:
    """A copy of what a variable or a tensor holds.

    Inside the scope of a TensorFlow strategy, a variable with a copy on each replica cannot be
    converted: its own `numpy()` asks the first replica.
    """
    value = value.value if isinstance(value, keras.Variable) else value
    if keras.backend.backend() == "tensorflow" and hasattr(value, "numpy"):
        value = value.numpy()
    return np.array(ops.convert_to_numpy(value))
