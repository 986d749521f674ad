"""What the CRF costs, and how exact it is: training steps and decoding, against its rivals."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from _common import Run, alternating, benchmark, ratios, table, versions

SIZES = ((32, 128, 4), (32, 128, 20), (64, 256, 9), (16, 512, 50), (8, 1024, 4))
LONG = ((32, 128, 20), (8, 1024, 4), (4, 4096, 4))
NAMES = ("emissions", "transitions", "start", "end")
BASE = "pytorch-crf"
PEERS = ("pytorch-crf", "TorchCRF", "torch-struct")
# Products of matrices for a tree: beyond so many multiplications a call takes half a minute.
MOST_OF_A_TREE = 2e8
# Seconds: what takes less runs several times in its turn.
TURN = 0.05

Arrays = dict[str, np.ndarray]


def problem(size: tuple[int, int, int], scale: float = 1.0) -> tuple[Arrays, Arrays]:
    """Draw normal scores, random tags, and a mask of lengths from half the time on."""
    batch, time, tags = size
    random = np.random.default_rng(0)
    shapes = ((batch, time, tags), (tags, tags), (tags,), (tags,))
    drawn = (random.normal(scale=scale, size=shape) for shape in shapes)
    scores = {name: values.astype("float32") for name, values in zip(NAMES, drawn, strict=True)}
    lengths = random.integers(time // 2, time, batch, endpoint=True)
    lengths[0] = time
    fixed = {
        "tags": random.integers(tags, size=(batch, time)).astype("int32"),
        "mask": np.arange(time) < lengths[:, None],
    }
    return scores, fixed


def torch_peer(name: str, scores: Arrays, fixed: Arrays) -> tuple[Callable, Callable]:
    """Make a training step (returning value and gradients) and a decoding of a PyTorch library."""
    import torch

    module, loss, decode = _PEERS[name](scores["emissions"].shape[2])
    parts = {key: torch.tensor(value) for key, value in scores.items()}
    tags, mask = torch.tensor(fixed["tags"]).long(), torch.tensor(fixed["mask"])
    if module is not None:
        own = {key: getattr(module, attribute) for key, attribute in _ATTRIBUTES[name].items()}
        with torch.no_grad():
            for key, parameter in own.items():
                parameter.copy_(parts[key])
        parts |= own
    sources = [parts[key].requires_grad_() for key in NAMES]

    def train() -> Any:
        value = loss(parts, tags, mask)
        return value, torch.autograd.grad(value, sources)

    def best() -> Any:
        with torch.no_grad():
            return decode(parts, mask)

    return train, best


def _pytorch_crf(tags: int) -> Any:
    from torchcrf import CRF

    crf = CRF(tags, batch_first=True)
    return (
        crf,
        lambda parts, tags, mask: -crf(parts["emissions"], tags, mask=mask),
        lambda parts, mask: crf.decode(parts["emissions"], mask=mask),
    )


def _torch_crf(tags: int) -> Any:
    from TorchCRF import CRF

    crf = CRF(tags)
    return (
        crf,
        lambda parts, tags, mask: -crf(parts["emissions"], tags, mask).sum(),
        lambda parts, mask: crf.viterbi_decode(parts["emissions"], mask),
    )


def _torch_struct(tags: int) -> Any:
    import torch
    from torch_struct import LinearChainCRF

    def chain(parts: Any, mask: Any) -> Any:
        """Make the distribution from scores of pairs, [batch, step, to, from].

        The scores of the end are added at each sequence's own last position.
        """
        emissions, lengths = parts["emissions"], mask.sum(1)
        steps = parts["transitions"].t() + emissions[:, 1:, :, None]
        first = torch.nn.functional.pad(
            (parts["start"] + emissions[:, 0])[:, None, None, :],
            (0, 0, 0, 0, 0, steps.shape[1] - 1),
        )
        is_last = torch.arange(1, emissions.shape[1]) == (lengths - 1)[:, None]
        last = is_last[:, :, None, None] * parts["end"][:, None]
        potentials = (steps + first + last).contiguous()
        return LinearChainCRF(potentials, lengths=lengths)

    def loss(parts: Any, tags: Any, mask: Any) -> Any:
        distribution = chain(parts, mask)
        count = parts["start"].shape[0]
        events = torch.zeros_like(distribution.log_potentials)
        linked = mask[:, 1:].to(events.dtype)
        index = (tags[:, 1:] * count + tags[:, :-1])[:, :, None]
        events.flatten(2).scatter_(2, index, linked[:, :, None])
        return -distribution.log_prob(events).sum()

    return None, loss, lambda parts, mask: chain(parts, mask).argmax


_PEERS = {"pytorch-crf": _pytorch_crf, "TorchCRF": _torch_crf, "torch-struct": _torch_struct}
_ATTRIBUTES = {
    "pytorch-crf": {
        "transitions": "transitions",
        "start": "start_transitions",
        "end": "end_transitions",
    },
    "TorchCRF": {"transitions": "trans_matrix", "start": "start_trans", "end": "end_trans"},
}


def loss_of_chain(parts: dict[str, Any], fixed: dict[str, Any]) -> Any:
    from keras import ops

    from finegrain.crf import LinearChain

    chain = LinearChain(**parts, mask=fixed["mask"])
    return -ops.sum(chain.log_prob(fixed["tags"]))


def loss_in_log_space(parts: dict[str, Any], fixed: dict[str, Any]) -> Any:
    """Compute the loss by the plain scan, in log space and differentiated by the backend."""
    from keras import ops

    from finegrain.crf.checks import checked_chain
    from finegrain.crf.kernels import log_space
    from finegrain.crf.score import score

    chain = checked_chain(**parts, mask=fixed["mask"])
    return ops.sum(log_space.forward(chain)[0] - score(chain, fixed["tags"]))


def tags_of_chain(parts: dict[str, Any], fixed: dict[str, Any]) -> Any:
    from finegrain.crf import LinearChain

    return LinearChain(**parts, mask=fixed["mask"]).mode()[0]


def tags_by_plain_scan(parts: dict[str, Any], fixed: dict[str, Any]) -> Any:
    """Find the (B, T) best tags by the plain scan.

    It finds a maximum and its place for each tag at each step, and then goes back.
    """
    from keras import ops

    from finegrain.crf.kernels.loops import scan

    emissions = ops.transpose(parts["emissions"], (1, 0, 2))
    valid = ops.transpose(fixed["mask"])[:, :, None]
    here = ops.broadcast_to(ops.arange(emissions.shape[2], dtype="int32"), emissions[0].shape)

    def forward(best: Any, xs: Any) -> Any:
        emission, valid = xs
        arrived = best[:, :, None] + parts["transitions"][None]
        origin = ops.where(valid, ops.cast(ops.argmax(arrived, axis=1), "int32"), here)
        return ops.where(valid, ops.max(arrived, axis=1) + emission, best), (origin,)

    best, (origins,) = scan(
        forward, parts["start"] + emissions[0], (emissions[1:], valid[1:]), ["int32"]
    )
    tag = ops.cast(ops.argmax(best + parts["end"], axis=1), "int32")

    def backward(tag: Any, xs: Any) -> Any:
        before = ops.take_along_axis(xs[0], tag[:, None], axis=1)[:, 0]
        return before, (tag,)

    first, (rest,) = scan(backward, tag, (origins,), ["int32"], reverse=True)
    return ops.transpose(ops.concatenate([first[None], rest]))


def on_backend(
    loss: Callable, decode: Callable, scores: Arrays, fixed: Arrays, mode: str
) -> tuple[Callable, Callable]:
    """Make a training step and a decoding from functions in Keras operations.

    The `mode` says how the backend runs them.
    """
    import keras

    parts = {name: keras.ops.convert_to_tensor(value) for name, value in scores.items()}
    rest = {name: keras.ops.convert_to_tensor(value) for name, value in fixed.items()}
    if mode == "jit":
        import jax

        train = jax.jit(jax.value_and_grad(loss))
        best = jax.jit(decode)
        return (
            lambda: jax.block_until_ready(train(parts, rest)),
            lambda: jax.block_until_ready(best(parts, rest)),
        )
    if mode == "eager":
        import torch

        sources = [part.requires_grad_() for part in parts.values()]

        def step() -> Any:
            value = loss(parts, rest)
            return value, torch.autograd.grad(value, sources)

        def find() -> Any:
            with torch.no_grad():
                return decode(parts, rest)

        return step, find
    import tensorflow as tf

    def value_and_gradients() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(parts)
            value = loss(parts, rest)
        return value, tape.gradient(value, parts)

    compiled = {"jit_compile": True} if mode == "xla" else {"jit_compile": False}
    return (
        tf.function(value_and_gradients, **compiled),
        tf.function(lambda: decode(parts, rest), **compiled),
    )


MODES = {"jax": ("jit",), "torch": ("eager",), "tensorflow": ("xla", "graph")}


def measure_speed(arguments: argparse.Namespace, modes: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = []
    for size in arguments.sizes or (SIZES[:1] if arguments.quick else SIZES):
        scores, fixed = problem(size)
        batch, time, tags = size
        contenders = {
            name: torch_peer(name, scores, fixed)
            for name in PEERS
            if name != "torch-struct" or batch * time * tags**3 <= MOST_OF_A_TREE
        }
        for mode in modes:
            own = (scores, fixed, mode)
            contenders[f"finegrain, {mode}"] = on_backend(loss_of_chain, tags_of_chain, *own)
            plain = on_backend(loss_in_log_space, tags_by_plain_scan, *own)
            contenders[f"plain scan, {mode}"] = plain
        agree({name: pair[0] for name, pair in contenders.items()})
        for index, what in enumerate(("training", "decoding")):
            running = {name: pair[index] for name, pair in contenders.items()}
            times = alternating(running, arguments.rounds, warm_up=2, least=TURN)
            faster = ratios({BASE: times[BASE]}, BASE) | {
                name: statistics.median(
                    base / mine for base, mine in zip(times[BASE], own, strict=True)
                )
                for name, own in times.items()
            }
            milliseconds = {name: 1000 * statistics.median(own) for name, own in times.items()}
            rows.append({"size": size, "what": what, "ms": milliseconds, "faster": faster})
            shown = ", ".join(f"{n} {milliseconds[n]:.2f} ms ({faster[n]:.1f})" for n in times)
            print(f"{size} {what}: {shown}", flush=True)
    return rows


def agree(steps: dict[str, Callable]) -> None:
    """Check that all steps compute the same value and gradients."""
    found = {name: _results(step()) for name, step in steps.items()}
    for name, results in found.items():
        for key, expected in found[BASE].items():
            np.testing.assert_allclose(
                results[key], expected, rtol=1e-3, atol=0.05, err_msg=f"{name}, {key}"
            )


def measure_errors(arguments: argparse.Namespace, modes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Measure the largest errors of values and gradients against pytorch-crf in float64."""
    rows = []
    for size in LONG[:1] if arguments.quick else LONG:
        scores, fixed = problem(size, scale=2.0)
        exact = _results(_in_double(scores, fixed))
        contenders = {BASE: torch_peer(BASE, scores, fixed)[0]}
        own = (scores, fixed, modes[0])
        contenders["finegrain"] = on_backend(loss_of_chain, tags_of_chain, *own)[0]
        contenders["plain scan"] = on_backend(loss_in_log_space, tags_by_plain_scan, *own)[0]
        for name, train in contenders.items():
            found = _results(train())
            errors = {key: float(np.abs(found[key] - exact[key]).max()) for key in exact}
            rows.append({"size": size, "name": name, "errors": errors})
            print(f"{size} {name}: {errors}", flush=True)
    return rows


def _in_double(scores: Arrays, fixed: Arrays) -> Any:
    import torch

    torch.set_default_dtype(torch.float64)
    try:
        doubles = {name: value.astype("float64") for name, value in scores.items()}
        return torch_peer(BASE, doubles, fixed)[0]()
    finally:
        torch.set_default_dtype(torch.float32)


def _results(step: Any) -> dict[str, np.ndarray]:
    import keras

    value, gradients = step
    if isinstance(gradients, dict):
        gradients = [gradients[name] for name in NAMES]
    results = dict(zip(("value", *NAMES), (value, *gradients), strict=True))
    return {
        name: np.asarray(
            x.detach().numpy() if hasattr(x, "detach") else keras.ops.convert_to_numpy(x)
        ).astype("float64")
        for name, x in results.items()
    }


def measure_memory(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the bytes that XLA holds besides arguments and results, by those of the emissions."""
    import jax

    rows = []
    for size in SIZES[:1] if arguments.quick else SIZES:
        scores, fixed = problem(size)
        row: dict[str, Any] = {"size": size}
        for name, loss in (("finegrain", loss_of_chain), ("plain scan", loss_in_log_space)):
            step = jax.jit(jax.value_and_grad(loss)).lower(scores, fixed).compile()
            held = step.memory_analysis().temp_size_in_bytes
            row[name] = held / scores["emissions"].nbytes
        rows.append(row)
        print(f"{size} memory: {row}", flush=True)
    return rows


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import keras
    import torch

    torch.set_num_threads(1)
    backend = keras.backend.backend()
    packages = dict.fromkeys(["keras", backend, "torch", "pytorch-crf", "TorchCRF", "torch-struct"])
    result: dict[str, Any] = {"versions": versions(*packages)}
    modes = MODES[backend]
    if arguments.only in (None, "speed"):
        result["speed"] = measure_speed(arguments, modes)
    if arguments.only in (None, "errors"):
        result["errors"] = measure_errors(arguments, modes)
    if arguments.only in (None, "memory") and backend == "jax":
        result["memory"] = measure_memory(arguments)
    return result


def page(run: Run) -> str:
    """Format the tables as a page of the docs."""
    parts = [
        "# How fast and how exact the CRF is\n\n"
        "Sizes are (batch, time, tags), float32, one thread each, sequences of random lengths "
        "from half the time to all of it. A training step is the log-likelihood with its "
        "gradients for emissions, transitions, start and end, with the proof of exactness "
        "included. Each cell holds the median time in milliseconds and, in brackets, how many "
        "times faster than pytorch-crf that is: the median over the rounds of one process in "
        "which all take turns of 50 ms or more, in which steps follow each other as they do in "
        "training. torch-struct's tree multiplies matrices: at 50 tags a step of it "
        "takes minutes and was left out. pytorch-crf and TorchCRF decode to Python lists. The "
        "plain scan is the textbook recursion under the same compiler: what finegrain is faster "
        "than it by is due to the algorithm, the rest to the compiler.\n\n"
        + run.source(f"benchmarks/crf.py --rounds {run.rounds}")
    ]
    for backend, result in run.results.items():
        names = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        parts.append(f"\n## {backend}\n\n{names}.\n")
        for what in ("training", "decoding"):
            rows = [row for row in result.get("speed", ()) if row["what"] == what]
            if rows:
                names = list(dict.fromkeys(name for row in rows for name in row["ms"]))
                cells = [
                    [_size(row["size"]), *(_cell(row, name) for name in names)] for row in rows
                ]
                title = "A training step" if what == "training" else "Decoding"
                parts.append(f"\n{title}:\n\n" + table(["", *names], cells))
        if "errors" in result:
            parts.append(
                "\nThe largest error against float64, normal scores of scale 2, of the summed "
                "log-likelihood and of its gradients:\n\n"
            )
            cells = [
                [
                    f"{_size(row['size'])} {row['name']}",
                    *(f"{e:.1e}" for e in row["errors"].values()),
                ]
                for row in result["errors"]
            ]
            parts.append(table(["", "value", *NAMES], cells))
        if "memory" in result:
            parts.append(
                "\nMemory that a compiled training step holds besides its arguments and results, "
                "by the size of the emissions:\n\n"
            )
            cells = [
                [_size(row["size"]), f"{row['finegrain']:.1f}", f"{row['plain scan']:.1f}"]
                for row in result["memory"]
            ]
            parts.append(table(["", "finegrain", "plain scan"], cells))
    return "".join(parts)


def _size(size: Any) -> str:
    return ", ".join(str(part) for part in size)


def _cell(row: dict[str, Any], name: str) -> str:
    if name not in row["ms"]:
        return "–"
    milliseconds, faster = row["ms"][name], row["faster"][name]
    digits = max(0, 1 - math.floor(math.log10(milliseconds)))
    return f"{milliseconds:.{min(digits, 2)}f} ({faster:.1f})"


def _parsed_size(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=["speed", "errors", "memory"], help="one part")
    parser.add_argument(
        "--sizes", nargs="+", type=_parsed_size, help="batch,time,tags, instead of all"
    )


if __name__ == "__main__":
    benchmark(__file__, measure, page, add)
