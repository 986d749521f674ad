"""PerWeight trains on several devices and in several processes as it does on one device."""

import concurrent.futures
import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest

from covering import chosen
from optimizers import distributed
from optimizers import mirrored as situations
from optimizers.contract import values

BACKEND = keras.backend.backend()
TIMEOUT = 600  # seconds: ten times what it takes beside another run of the tests


@dataclass(frozen=True)
class Run:
    """How a scenario of `distributed` is started, and what it leaves."""

    backend: str
    processes: int
    devices: int
    copies: tuple[str, ...]
    """The names of the files with the weights of each copy of the model."""
    cases: tuple[str, ...] = tuple(distributed.CASES)


RUNS = {
    "data_parallel": Run("jax", 1, 8, ("0",)),
    "model_parallel": Run("jax", 1, 8, ("0",)),
    "processes": Run("jax", 2, 2, ("0", "1")),
    "distributed_data_parallel": Run("torch", 2, 1, ("0", "1")),
    "mirrored": Run(
        "tensorflow",
        1,
        2,
        ("0", "1"),
        tuple(distributed.CASES_UNCLIPPED),
    ),
}


SELECTED = {
    "data_parallel": ["adam_nan"],
    "model_parallel": ["adax"],
    "processes": [],  # as data_parallel, but for where the rows come from
    "distributed_data_parallel": distributed.CASES,
    "mirrored": ["adam_nan"] if os.environ.get("FINEGRAIN_REAL") == "full" else [],  # 20 s
}
"""What stands for all cases: each is compiled."""
SELECTED_HERE = {
    case for name, cases in SELECTED.items() if RUNS[name].backend == BACKEND for case in cases
}


def cases_of(*scenarios, among=distributed.CASES):
    """A parameter set for each case of each scenario of this backend."""
    return pytest.mark.parametrize(
        ("scenario", "case"),
        [
            pytest.param(
                scenario, case, marks=() if case in SELECTED[scenario] else pytest.mark.full
            )
            for scenario in scenarios
            if RUNS[scenario].backend == BACKEND
            for case in RUNS[scenario].cases
            if case in among
        ],
    )


def start(scenario: str, folder: Path, cases: Sequence[str]) -> None:
    """Runs a scenario to its end; fails with the output of all its processes."""
    run = RUNS[scenario]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
        f"--xla_force_host_platform_device_count={run.devices}",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }
    logs = [folder / f"{rank}.log" for rank in range(run.processes)]
    processes = []
    for rank, log in enumerate(logs):
        arguments = [scenario, str(folder), str(rank), str(port), *cases]
        with log.open("w") as file:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "optimizers.distributed", *arguments],
                    env=environment,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            )
    with concurrent.futures.ThreadPoolExecutor(len(processes)) as threads:
        waits = [threads.submit(wait_for, process) for process in processes]
        concurrent.futures.wait(waits, return_when=concurrent.futures.FIRST_EXCEPTION)
        # When one has failed, the other would wait for it. JAX takes no notice of a mere SIGTERM.
        for process in processes:
            process.kill()
            process.wait()
    if any(process.returncode for process in processes):
        codes = [process.returncode for process in processes]
        pytest.fail("\n".join([f"{scenario}: exit codes {codes}", *(p.read_text() for p in logs)]))


def wait_for(process: subprocess.Popen) -> None:
    """Returns when `process` has ended well, and raises when it has not."""
    if process.wait(TIMEOUT):
        raise subprocess.CalledProcessError(process.returncode, process.args)


@pytest.fixture(scope="module")
def trained(request, tmp_path_factory):
    """The folder that a scenario has left: started once, with the cases of all tests."""
    folders = {}
    asked = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]

    def folder_of(scenario):
        if scenario not in folders:
            folders[scenario] = tmp_path_factory.mktemp(scenario)
            cases = {params["case"] for params in asked if params.get("scenario") == scenario}
            start(scenario, folders[scenario], sorted(cases))
        return folders[scenario]

    return folder_of


@functools.cache
def on_one_device(case: str, rounds: int = 1) -> list[np.ndarray]:
    """The weights after training here; a batch with a NaN is left out rather than skipped."""
    x, y = distributed.batches(case)
    finite = np.isfinite(x).all(axis=(1, 2))
    model = distributed.network(case)
    for _ in range(rounds):
        distributed.fit(model, x[finite], y[finite])
    assert model.optimizer.skipped_steps == 0
    return values(model.weights)


def assert_close(weights, expected) -> None:
    for mine, one_device in zip(weights, expected, strict=True):
        np.testing.assert_allclose(mine, one_device, rtol=1e-5, atol=1e-6)


def read(path: Path) -> tuple[list[np.ndarray], int]:
    """(weights, skipped steps) of a file that `distributed.record` wrote."""
    with np.load(path) as arrays:
        skipped = int(arrays["skipped_steps"])
        return [arrays[name] for name in arrays if name != "skipped_steps"], skipped


@cases_of(*RUNS)
def test_weights_are_those_of_one_device(scenario, case, trained):
    """Each device and each process ends with them, also where one device alone met a NaN."""
    for copy in RUNS[scenario].copies:
        weights, skipped = read(trained(scenario) / f"{case}-{copy}.npz")
        assert_close(weights, on_one_device(case))
        assert skipped == int(case.endswith("_nan"))


@pytest.mark.parametrize("case", chosen(distributed.CASES, SELECTED_HERE))
def test_on_one_device_what_should_moves(case):
    """Else nothing would be shown by equality."""
    model = distributed.network(case)
    for weight, start, end in zip(
        model.weights, values(model.weights), on_one_device(case), strict=True
    ):
        assert np.isfinite(end).all()
        if "frozen" in weight.path:
            np.testing.assert_array_equal(start, end)
        else:
            assert np.abs(end - start).max() > 1e-3


@cases_of(*RUNS)
def test_what_is_frozen_stays(scenario, case, trained):
    """To the last bit."""
    model = distributed.network(case)
    for copy in RUNS[scenario].copies:
        weights, _ = read(trained(scenario) / f"{case}-{copy}.npz")
        for weight, start, end in zip(model.weights, values(model.weights), weights, strict=True):
            if "frozen" in weight.path:
                np.testing.assert_array_equal(start, end)


@cases_of(*RUNS)
def test_the_file_goes_on_on_one_device(scenario, case, trained):
    for rank in range(RUNS[scenario].processes):
        model = keras.models.load_model(trained(scenario) / f"{case}-{rank}.keras")
        distributed.fit(model, *distributed.batches(case))
        assert_close(values(model.weights), on_one_device(case, rounds=2))


@cases_of("data_parallel", "model_parallel", among=distributed.CASES_RESUMED)
def test_the_file_goes_on_on_many_devices(scenario, case, trained):
    weights, _ = read(trained(scenario) / f"{case}-resumed.npz")
    assert_close(weights, on_one_device(case, rounds=2))


@cases_of("model_parallel", among=distributed.CASES_RESUMED)
@pytest.mark.parametrize("stage", ["", "-resumed"])
def test_slots_are_cut_like_their_weights(scenario, case, stage, trained):
    parts = json.loads((trained(scenario) / f"{case}{stage}.json").read_text())
    slots = {"adam": 2, "adax": 2, "step_size": 3, "sgd_clipped": 1, "recipes": 2}[case]
    for weight in ["encoder/kernel", "encoder/bias", "head/kernel"]:
        assert parts[weight] == 4
        of_slots = [n for path, n in parts.items() if weight.replace("/", "_") in path]
        # Muon, which moves the hidden matrix among the recipes, has one slot.
        assert of_slots == [4] * (1 if (case, weight) == ("recipes", "encoder/kernel") else slots)
    assert parts["head/bias"] == 1


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has strategies")
@pytest.mark.parametrize("optimizer", situations.TRIED)
@pytest.mark.parametrize("situation", situations.SITUATIONS)
def test_what_plain_keras_can_under_a_strategy(situation, optimizer, trained):
    """Save, load, restore, set and watch, inside and outside of the strategy's scope."""
    found = json.loads((trained("mirrored") / "situations.json").read_text())
    assert not found[optimizer][situation], found[optimizer][situation]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has strategies")
def test_step_sizes_are_refused_where_each_replica_sees_its_share_only():
    import tensorflow as tf

    class Two:
        num_replicas_in_sync = 2

    optimizer = distributed.OPTIMIZERS["step_size"]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.distribute, "get_strategy", Two)
        with pytest.raises(ValueError, match="a strategy of 2 replicas"):
            optimizer.build([keras.Variable([1.0])])
