"""The same training on one device and on many.

`test_distribution.py` starts this module as a process, or as two of them, with a scenario's name:
    python -m optimizers.distributed SCENARIO FOLDER RANK PORT CASE…
Each process trains the cases under its scenario and writes what came of it into the folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

import drawn
import finegrain as fg
from optimizers import mirrored as situations
from optimizers.contract import fill, values

STEPS, BATCH, FEATURES, TARGETS = 6, 16, 4, 2
NAN_STEP = 2
_random = drawn.generator(23)
X = _random.normal(size=(STEPS, BATCH, FEATURES)).astype("float32")
Y = _random.normal(size=(STEPS, BATCH, TARGETS)).astype("float32")

OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "adam": lambda: keras.optimizers.Adam(0.05),
    "adax": lambda: fg.optimizers.AdaX(0.2),
    "step_size": lambda: fg.optimizers.AdaptiveStepSize(
        # With a scale that learns faster, weights go far, and rounding errors grow on the way.
        keras.optimizers.Adam(0.05),
        fg.optimizers.Scale(2.0, first_step=None, max_change=None),
    ),
    "recipes": lambda: keras.optimizers.AdamW(0.05, weight_decay=0.1),
    "sgd_clipped": lambda: keras.optimizers.SGD(0.2, momentum=0.9, global_clipnorm=0.5),
}
CASES = [*OPTIMIZERS, "adam_nan"]
"""What PerWeight wraps; in a case `*_nan` it meets a NaN, and is to skip the step."""
# With MirroredStrategy Keras clips on each replica by itself, before the gradients are summed up,
# and step sizes are not learned.
CASES_UNCLIPPED = [case for case in CASES if "clipped" not in case and case != "step_size"]
CASES_RESUMED = [case for case in CASES if not case.endswith("_nan")]


def network(case: str, **compile_arguments: Any) -> keras.Model:
    """A compiled model for `case`, with the same weights at every call."""
    inputs = keras.Input((FEATURES,))
    hidden = keras.layers.Dense(8, activation="tanh", name="frozen")(inputs)
    hidden = keras.layers.Dense(8, activation="tanh", name="encoder")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(TARGETS, name="head")(hidden))
    fill(model)
    rules = [
        fg.Rule("frozen/kernel", learning_rate_multiplier=0.0),
        fg.Rule("frozen/bias", trainable=False),
        fg.Rule("encoder", learning_rate_multiplier=0.1),
        fg.Rule("head", learning_rate_multiplier=2.0),
    ]
    if case == "recipes":
        rules = [
            *fg.recipes.layer_decay(model, 0.5),
            *fg.recipes.no_weight_decay(model),
            *fg.recipes.muon(model, 0.05),
            *fg.recipes.head_first(model, 2.0),
            *rules[:2],
        ]
    made = OPTIMIZERS[case.removesuffix("_nan")]()
    optimizer = fg.PerWeight(made, rules, nonfinite="skip")
    model.compile(optimizer, "mse", **compile_arguments)
    return model


def batches(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of `case`, of shape (steps, rows, …).

    In a case `*_nan` the last row of one batch is NaN: one device alone meets it.
    """
    x = X.copy()
    if case.endswith("_nan"):
        x[NAN_STEP, -1] = np.nan
    return x, Y


def fit(model: keras.Model, x: np.ndarray, y: np.ndarray) -> keras.Model:
    """`model` after one step on each of the batches `x` and `y`."""
    rows = x.shape[1]
    x, y = (array.reshape(-1, array.shape[-1]) for array in (x, y))
    model.fit(x, y, batch_size=rows, shuffle=False, verbose=0)
    return model


def record(path: Path, model: keras.Model, weights: Sequence[np.ndarray] | None = None) -> None:
    """Writes the weights, and how many steps were skipped, to `path`."""
    arrays = values(model.weights) if weights is None else weights
    np.savez(path, *arrays, skipped_steps=model.optimizer.skipped_steps)


def record_shards(path: Path, model: keras.Model) -> None:
    """Writes, for each variable of `model` and of its optimizer, into how many parts it is cut."""
    parts = {
        variable.path: len({str(shard.index) for shard in variable.value.addressable_shards})
        for variable in [*model.weights, *model.optimizer.variables]
    }
    path.write_text(json.dumps(parts))


def on_mesh(
    distribution: keras.distribution.Distribution, folder: Path, cases: Sequence[str]
) -> None:
    """JAX: one process with several devices; the models go on after a detour over a file."""
    keras.distribution.set_distribution(distribution)
    for case in cases:
        model = fit(network(case, jit_compile=True), *batches(case))
        record(folder / f"{case}-0.npz", model)
        record_shards(folder / f"{case}.json", model)
        model.save(folder / f"{case}-0.keras")
        if case not in CASES_RESUMED:
            continue
        resumed = keras.models.load_model(folder / f"{case}-0.keras")
        fit(resumed, *batches(case))
        record(folder / f"{case}-resumed.npz", resumed)
        record_shards(folder / f"{case}-resumed.json", resumed)


def data_parallel(folder: Path, _rank: int, _port: int, cases: Sequence[str]) -> None:
    """JAX: each of the devices has a share of the rows."""
    on_mesh(keras.distribution.DataParallel(), folder, cases)


def model_parallel(folder: Path, _rank: int, _port: int, cases: Sequence[str]) -> None:
    """JAX: the rows are shared out two ways and the kernels four ways."""
    mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))
    layouts = keras.distribution.LayoutMap(mesh)
    layouts["(frozen|encoder)/kernel"] = (None, "model")
    layouts["encoder/bias"] = ("model",)
    layouts["head/kernel"] = ("model", None)
    on_mesh(
        keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch"), folder, cases
    )


def processes(folder: Path, rank: int, port: int, cases: Sequence[str]) -> None:
    """JAX: two processes with two devices each; each process feeds its own rows."""
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
    # Each process reads its own rows only.
    distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
    keras.distribution.set_distribution(distribution)
    for case in cases:
        x, y = (np.split(array, 2, axis=1)[rank] for array in batches(case))
        model = fit(network(case, jit_compile=True), x, y)
        record(folder / f"{case}-{rank}.npz", model)
        # By all processes: Keras places arrays on the mesh while saving, which all have to do.
        model.save(folder / f"{case}-{rank}.keras")


def distributed_data_parallel(folder: Path, rank: int, _port: int, cases: Sequence[str]) -> None:
    """PyTorch: two processes, each with its own rows."""
    import torch

    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", rendezvous, rank=rank, world_size=2)
    loss_of = keras.losses.MeanSquaredError()
    for case in cases:
        model = network(case)
        replica = torch.nn.parallel.DistributedDataParallel(model)
        weights = model.trainable_variables
        x, y = (np.split(array, 2, axis=1)[rank] for array in batches(case))
        for inputs, targets in zip(torch.from_numpy(x), torch.from_numpy(y), strict=True):
            replica.zero_grad()
            loss_of(targets, replica(inputs)).backward()
            with torch.no_grad():
                model.optimizer.apply([weight.value.grad for weight in weights], weights)
        record(folder / f"{case}-{rank}.npz", model)
        model.save(folder / f"{case}-{rank}.keras")
    torch.distributed.barrier()  # neither leaves while the other still works
    torch.distributed.destroy_process_group()


def mirrored(folder: Path, _rank: int, _port: int, cases: Sequence[str]) -> None:
    """TensorFlow: two virtual devices, each with a copy of the model and a share of the rows."""
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for case in cases:
        with strategy.scope():
            model = network(case)  # Keras gives nothing to XLA here
        fit(model, *batches(case))
        for device in range(2):
            copy = [weight.value.values[device].numpy() for weight in model.weights]
            record(folder / f"{case}-{device}.npz", model, copy)
        model.save(folder / f"{case}-0.keras")
    (folder / "situations.json").write_text(json.dumps(situations.compare(strategy, folder)))


SCENARIOS: dict[str, Callable[[Path, int, int, Sequence[str]], None]] = {
    scenario.__name__: scenario
    for scenario in [
        data_parallel,
        model_parallel,
        processes,
        distributed_data_parallel,
        mirrored,
    ]
}

if __name__ == "__main__":
    scenario, folder, rank, port, *cases = sys.argv[1:]
    SCENARIOS[scenario](Path(folder), int(rank), int(port), cases)
