"""By which compiler tests compile that are not about one."""

import os

import keras

BACKEND = keras.backend.backend()

XLA = BACKEND == "tensorflow" and os.environ.get("FINEGRAIN_XLA") == "1"
"""Whether TensorFlow's graphs go to XLA, as `make test-all` has it: it takes twice as long."""

JIT = BACKEND == "jax" or XLA
"""For `jit_compile` of `Model.compile`, which is also what Keras takes by itself on a CPU.

On PyTorch nothing is compiled: Dynamo is not our matter.
"""
