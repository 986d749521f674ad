"""What each backend does in its own way: hand-written derivatives and fast kernels.

`backend` is the module of the present backend, `on_others` where finegrain has none for it, by
`keras.ops` alone. All of them have the same functions of a chain:
`score(chain, tags)`, `log_prob(chain, tags)`, `log_partition(chain)`, `marginals(chain)` and
`best_tags(chain)`.
"""

from __future__ import annotations

import importlib
from typing import Any

import keras

from finegrain.backends import has_kernels

_name = keras.backend.backend() if has_kernels() else "others"
backend: Any = importlib.import_module(f"finegrain.crf.backend.on_{_name}")
