"""What each backend does in its own way: hand-written derivatives and fast kernels.

`kernels` is the module of the present backend. Where finegrain has none for it, it is `others`,
which uses `keras.ops` alone. All of them have the same functions of a chain:
`score(chain, tags)`, `log_prob(chain, tags)`, `log_partition(chain)`, `marginals(chain)` and
`best_tags(chain)`.
"""

from __future__ import annotations

import importlib
from typing import Any

import keras

from finegrain._backend.support import has_kernels

_name = keras.backend.backend() if has_kernels() else "others"
kernels: Any = importlib.import_module(f"finegrain.crf.kernels.{_name}")
