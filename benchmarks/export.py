"""Decoding inside exported models: whether it is Keras's, and how fast, on one core."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _common import Run, alternating, benchmark, table, versions

TAGS = 9
SIZES = ((1, 32), (32, 64), (32, 128), (128, 128), (256, 128))
BATCHES = 1000
# What each backend exports to without fixed sizes, beside `model.predict_on_batch` in Keras.
FORMATS = {"tensorflow": ("onnx", "tf_saved_model"), "jax": ("tf_saved_model",), "torch": ()}
SHOWN = {"onnx": "ONNX Runtime", "tf_saved_model": "SavedModel", "keras": "Keras"}
PACKAGES = {"onnx": ("onnxruntime", "tf2onnx"), "tf_saved_model": ("tensorflow",)}
# Seconds: what takes less runs several times in its turn.
TURN = 0.05


def features(batch: int, time: int, seed: int, ragged: bool = True) -> np.ndarray:
    """Draw scores of `TAGS` tags and, as the last feature, which positions there are.

    Args:
        batch: The examples.
        time: The positions.
        seed: Of what is drawn.
        ragged: Whether the mask has holes, padding on either side and empty rows; if not, it is
            padded on the right, from half the time on.
    """
    random = np.random.default_rng(seed)
    place, size = np.arange(time), (batch, 1)
    mask = place < random.integers(time // 2, time, size, endpoint=True)
    if ragged:
        mask = place < random.integers(0, time, size, endpoint=True)
        mask &= place >= random.integers(0, max(time // 4, 1), size)
        mask &= random.random((batch, time)) < random.choice([0.8, 1.0], size)
    scores = random.normal(size=(batch, time, TAGS))
    return np.concatenate([scores, mask[:, :, None]], axis=2).astype("float32")


def models() -> tuple[Any, Any]:
    """Make a CRF of random scores under a BIO scheme, and the same with the decoder behind it."""
    import keras

    import finegrain as fg

    inputs = keras.Input((None, TAGS + 1), name="features")
    scheme = fg.tagging.BIO(["PER", "LOC", "ORG", "MISC"])
    layer = fg.layers.CRF(TAGS, use_projection=False, constraints=scheme)
    mask = keras.ops.cast(inputs[:, :, TAGS], "bool")
    tagger = keras.Model(inputs, layer(inputs[:, :, :TAGS], mask=mask))
    random = np.random.default_rng(0)
    tagger.set_weights([random.normal(size=weight.shape) for weight in tagger.weights])
    return tagger, keras.Model(inputs, fg.crf.decode(tagger.output))


def exported(form: str, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Export the model and load it again; return what decodes one batch on one core."""
    path, (_, server) = folder / form, models()
    server(features(1, 1, 0))  # Keras exports what was called before.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters
        server.export(path, format=form, verbose=False)
    if form == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        return lambda batch: session.run(None, {"features": batch})[0]
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    return lambda batch: loaded.serve(batch).numpy()


def differing(decoders: dict[str, Callable], batches: int) -> dict[str, int]:
    """Count the ragged batches whose tags are not those of the potentials, decoded in Keras."""
    import keras

    import finegrain as fg

    tagger, _ = models()
    found = dict.fromkeys(decoders, 0)
    random = np.random.default_rng(0)
    for seed in range(batches):
        size = (int(random.integers(1, 34)), int(random.integers(1, 91)))
        batch = features(*size, seed)
        expected = keras.ops.convert_to_numpy(fg.crf.decode(tagger(batch)))
        for name, decode in decoders.items():
            found[name] += not np.array_equal(decode(batch), expected)
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import keras

    backend = keras.backend.backend()
    forms = FORMATS[backend]
    packages = ["keras", backend, *(name for form in forms for name in PACKAGES[form])]
    result: dict[str, Any] = {"versions": versions(*dict.fromkeys(packages)), "speed": []}
    with tempfile.TemporaryDirectory() as folder:
        decoders = {form: exported(form, Path(folder)) for form in forms}
        # Each size is compiled anew where XLA does it: a few of them tell as much.
        for form in forms:
            batches = arguments.batches if backend == "tensorflow" else arguments.batches // 20
            result.setdefault("batches", {})[form] = batches
            result.setdefault("differing", {}).update(differing({form: decoders[form]}, batches))
        print(f"differing: {result.get('differing')}", flush=True)
        _, server = models()
        contenders = {"keras": server.predict_on_batch, **decoders}
        for batch, time in SIZES[1:2] if arguments.quick else SIZES:
            given = features(batch, time, 0, ragged=False)
            tokens = int(given[:, :time, TAGS].sum())
            running = {name: partial(decode, given) for name, decode in contenders.items()}
            times = alternating(running, arguments.rounds, least=TURN)
            row: dict[str, Any] = {"size": (batch, time), "tokens": tokens}
            row["seconds"] = {name: statistics.median(own) for name, own in times.items()}
            result["speed"].append(row)
            speeds = {name: f"{tokens / s / 1e6:.2f}" for name, s in row["seconds"].items()}
            print(f"{batch}, {time}: million tokens a second {speeds}", flush=True)
    return result


def page(run: Run) -> str:
    """Format the tables as a page of the docs."""
    parts = [
        "# Decoding in exported models\n\n"
        f"Scores go through a CRF layer without projection, of {TAGS} tags under a BIO scheme, "
        "and through `fg.layers.Decode`; batch and time are dynamic. *Ragged batches*: random "
        "batch (1–33), time (1–90) and masks, with padding on either side, holes and empty rows; "
        "all tags are compared with those of `fg.crf.decode` in Keras (on JAX of fewer batches, "
        "since each size is compiled anew). *Speed*: sequences of half the time to all of it, of "
        "which only the tokens that are there are counted; one core; the median over rounds in "
        "which all take turns. Keras is `predict_on_batch`.\n\n"
        + run.source(f"benchmarks/export.py --rounds {run.rounds}")
    ]
    for backend, result in run.results.items():
        names = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        parts.append(f"\n## {backend}\n\n{names}.\n")
        for form, count in result.get("differing", {}).items():
            number = result["batches"][form]
            parts.append(f"\n{SHOWN[form]}: {number - count} of {number} ragged batches equal.\n")
        names = list(result["speed"][0]["seconds"])
        cells = [
            [
                f"{row['size'][0]} × {row['size'][1]}",
                *(
                    f"{row['tokens'] / s / 1e6:.2f} ({1000 * s:.2f} ms)"
                    for s in (row["seconds"][name] for name in names)
                ),
            ]
            for row in result["speed"]
        ]
        header = ["batch × time", *(SHOWN[name] for name in names)]
        parts.append("\nMillion tokens a second:\n\n" + table(header, cells))
    return "".join(parts)


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batches", type=int, default=BATCHES, help="ragged batches to compare")


if __name__ == "__main__":
    benchmark(__file__, measure, page, add)
