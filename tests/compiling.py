"""Which compiler a test uses where any would do."""

import os

import keras

BACKEND = keras.backend.backend()

XLA = BACKEND == "tensorflow" and os.environ.get("FINEGRAIN_XLA") == "1"
"""Whether TensorFlow hands its graphs to XLA, which takes twice as long: `make test-all` alone."""

JIT = BACKEND == "jax" or XLA
"""What to pass as `jit_compile`. It is what Keras itself chooses on a CPU, but for `XLA`.

On PyTorch nothing is compiled: Dynamo takes a minute to start.
"""
