"""What the benchmarks of learning share: tasks on real data, and many runs of one method at once.

A run is a whole training. Those of one method on one task differ in the learning rate and the seed
only, so that JAX makes one program of them all: a loop over the steps of a batch of models.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import SCRATCH, one_thread
from _data import files

one_thread()
os.environ["KERAS_BACKEND"] = "jax"

import jax  # noqa: E402 (reads its settings when it is imported)
from jax import numpy as jnp  # noqa: E402

STEPS, RECORDS, EXAMPLES = 2000, 40, 2048

Array = Any
Weights = list[Array]


class Task(NamedTuple):
    """A model, its data and how it is trained."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    shapes: Sequence[tuple[int, ...]]
    loss: Callable[[Weights, Array, Array], Array]
    batch: int


class Method(NamedTuple):
    """An optimizer as two functions, of which the learning rate is an argument."""

    init: Callable[[Weights, Array], Any]
    update: Callable[[Any, Weights, Weights], tuple[Weights, Any]]


def of_keras(factory: Callable[[], Any], shapes: Sequence[tuple[int, ...]]) -> Method:
    """Make a method of a Keras optimizer, whose learning rate is one of its variables."""
    import keras

    optimizer = factory()
    weights = [keras.Variable(np.zeros(shape, "float32")) for shape in shapes]
    optimizer.build(weights)
    names = [variable.path for variable in optimizer.variables]
    place = next(i for i, name in enumerate(names) if name.endswith("learning_rate"))
    state = [variable.value for variable in optimizer.variables]

    def init(_weights: Weights, rate: Array) -> Any:
        return [jnp.asarray(rate, "float32") if i == place else s for i, s in enumerate(state)]

    def update(state: Any, gradients: Weights, weights: Weights) -> tuple[Weights, Any]:
        return optimizer.stateless_apply(state, gradients, weights)

    return Method(init, update)


def of_optax(factory: Callable[[Array], Any], _shapes: Any = None) -> Method:
    """Make a method of an optax optimizer, made anew for the learning rate that it is given."""
    import optax

    def init(weights: Weights, rate: Array) -> Any:
        return rate, factory(rate).init(weights)

    def update(state: Any, gradients: Weights, weights: Weights) -> tuple[Weights, Any]:
        rate, inner = state
        updates, inner = factory(rate).update(gradients, inner, weights)
        return optax.apply_updates(weights, updates), (rate, inner)

    return Method(init, update)


def initial(shapes: Sequence[tuple[int, ...]], key: Array) -> Weights:
    """Draw normal kernels of variance 1 / inputs, with zero biases."""
    keys = jax.random.split(key, len(shapes))
    return [
        jax.random.normal(k, shape) / math.sqrt(shape[-2]) if len(shape) > 1 else jnp.zeros(shape)
        for k, shape in zip(keys, shapes, strict=True)
    ]


def run_all(
    task: Task, method: Method, rates: Sequence[float], seeds: Sequence[int], steps: int = STEPS
) -> dict[str, np.ndarray]:
    """Train with each rate and seed, and record the losses on both parts of the data.

    The losses of a part have the shape (rates, seeds, records).
    """
    x, y = map(jnp.asarray, task.train)
    chosen = np.random.default_rng(0).permutation(len(x))[:EXAMPLES]
    x_some, y_some = x[chosen], y[chosen]
    x_valid, y_valid = (jnp.asarray(a[:EXAMPLES]) for a in task.validation)

    def step(carry: Any, _: Any) -> Any:
        weights, state, key = carry
        key, own = jax.random.split(key)
        rows = jax.random.randint(own, (task.batch,), 0, len(x))
        gradients = jax.grad(task.loss)(weights, x[rows], y[rows])
        weights, state = method.update(state, gradients, weights)
        return (weights, state, key), None

    def record(carry: Any, _: Any) -> Any:
        carry, _ = jax.lax.scan(step, carry, None, length=steps // RECORDS)
        weights = carry[0]
        return carry, (task.loss(weights, x_some, y_some), task.loss(weights, x_valid, y_valid))

    def run(rate: Array, seed: Array) -> Any:
        key = jax.random.key(seed)
        weights = initial(task.shapes, jax.random.fold_in(key, 1))
        carry = (weights, method.init(weights, rate), key)
        return jax.lax.scan(record, carry, None, length=RECORDS)[1]

    every = jnp.array([(rate, seed) for rate in rates for seed in seeds], "float32")
    train, validation = jax.jit(jax.vmap(run))(every[:, 0], every[:, 1].astype("int32"))
    shape = (len(rates), len(seeds), RECORDS)
    return {
        "train": np.asarray(train).reshape(shape),
        "validation": np.asarray(validation).reshape(shape),
    }


def final(losses: np.ndarray) -> np.ndarray:
    """Compute the mean of the last two records, or infinity where training diverged."""
    last = losses[..., -2:].mean(-1)
    return np.where(np.isfinite(last), last, np.inf)


def cross_entropy(scores: Array, y: Array) -> Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), y[:, None], axis=1).mean()


def dense(weights: Weights, x: Array, y: Array, activation: Any = jax.nn.relu) -> Array:
    """Compute the cross entropy of a multilayer perceptron."""
    *hidden, kernel, bias = weights
    for k, b in zip(hidden[::2], hidden[1::2], strict=True):
        x = activation(x @ k + b)
    return cross_entropy(x @ kernel + bias, y)


def regression(weights: Weights, x: Array, y: Array) -> Array:
    """Compute the mean squared error of a perceptron with one hidden layer."""
    return jnp.mean((jnp.tanh(x @ weights[0] + weights[1]) @ weights[2] + weights[3] - y) ** 2)


def embedded(weights: Weights, x: Array, y: Array) -> Array:
    """Compute the cross entropy of a perceptron of embedded symbols, (batch, window) integers."""
    return dense(weights[1:], weights[0][x].reshape(len(x), -1), y)


def layers(*widths: int) -> list[tuple[int, ...]]:
    return [s for a, b in pairwise(widths) for s in ((a, b), (b,))]


def halves(x: Any, y: Any, share: float = 0.2) -> tuple[Any, Any]:
    """Shuffle the examples and split them into training and validation parts."""
    order = np.random.default_rng(1).permutation(len(x))
    x, y = np.asarray(x, "float32")[order], np.asarray(y)[order]
    cut = int(len(x) * share)
    return (x[cut:], y[cut:]), (x[:cut], y[:cut])


def standardized(x: np.ndarray) -> np.ndarray:
    return ((x - x.mean(0)) / (x.std(0) + 1e-8)).astype("float32")


def digits(_data: Path) -> Task:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return Task(*halves(x / 16, y), layers(64, 32, 10), dense, 32)


def digits_small_batch(data: Path) -> Task:
    return digits(data)._replace(batch=8)


def digits_tanh(data: Path) -> Task:
    """Make the task `digits` with three hidden layers."""
    loss = partial(dense, activation=jnp.tanh)
    return digits(data)._replace(shapes=layers(64, 32, 32, 32, 10), loss=loss)


def wine(_data: Path) -> Task:
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    return Task(*halves(standardized(x), y), layers(13, 16, 3), dense, 16)


def diabetes(_data: Path) -> Task:
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    y = standardized(y[:, None])
    return Task(*halves(standardized(x), y), layers(10, 8, 1), regression, 16)


def mnist(data: Path) -> Task:
    """Make the task of MNIST's digits, with images of half the size."""
    names = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
    of_images, of_labels = files(data, "mnist", *names)
    with gzip.open(of_images) as file:
        images = np.frombuffer(file.read(), "uint8", offset=16).reshape(-1, 14, 2, 14, 2)
    with gzip.open(of_labels) as file:
        labels = np.frombuffer(file.read(), "uint8", offset=8).astype("int32")
    x = images.mean((2, 4)).reshape(len(images), -1) / 255
    return Task(*halves(x, labels), layers(196, 32, 10), dense, 32)


def mnist_tanh(data: Path) -> Task:
    """Make the task `mnist` with three hidden layers."""
    loss = partial(dense, activation=jnp.tanh)
    return mnist(data)._replace(shapes=layers(196, 32, 32, 32, 10), loss=loss)


def windows(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Cut out the neighbourhood of each position of each row, 0 outside the row."""
    out = []
    for row in rows:
        padded = np.pad(np.asarray(row, "int32"), width)
        out.append(np.lib.stride_tricks.sliding_window_view(padded, 2 * width + 1)[: len(row)])
    return np.concatenate(out)


def numbers(rows: Sequence[Sequence[str]], size: int) -> dict[str, int]:
    """Map the most frequent symbols to numbers from 2 on; 1 is for all others."""
    counts = Counter(symbol for row in rows for symbol in row)
    return {symbol: n for n, (symbol, _) in enumerate(counts.most_common(size - 2), 2)}


def tagger(train: Any, validation: Any, tags: Sequence[str], size: int, width: int) -> Task:
    """Make the task of tagging each symbol by the embeddings of its neighbourhood."""
    number, tag = numbers([row for row, _ in train], size), {t: n for n, t in enumerate(tags)}

    def encoded(part: Any) -> tuple[np.ndarray, np.ndarray]:
        x = windows([[number.get(s, 1) for s in row] for row, _ in part], width)
        return x, np.array([tag[t] for _, row in part for t in row], "int32")

    shapes = [(size, 12), *layers(12 * (2 * width + 1), 32, len(tags))]
    return Task(encoded(train), encoded(validation), shapes, embedded, 32)


def ud_en_ewt(data: Path) -> Task:
    """Make the task of tagging English words with their parts of speech."""
    from finegrain.tagging.corpus import read_columns

    train, dev = map(read_columns, files(data, "ud_en_ewt", "train.upos.tsv", "dev.upos.tsv"))
    tags = sorted({tag for _, row in train for tag in row})
    return tagger(train, dev, tags, 1500, 1)


def ud_zh_gsdsimp(data: Path) -> Task:
    """Make the task of segmenting Chinese characters into words."""
    import finegrain as fg
    from finegrain.tagging.corpus import read_segmented

    scheme = fg.tagging.BMES()

    def read(path: Path) -> Any:
        rows = read_segmented(path)
        return [(list("".join(words)), list(map(int, scheme.encode(words)))) for words in rows]

    train, dev = map(read, files(data, "ud_zh_gsdsimp", "train.seg.txt", "dev.seg.txt"))
    return tagger(train, dev, range(4), 1500, 2)


def characters(_data: Path) -> Task:
    """Make the task of predicting a character of finegrain's manual from the eight before it."""
    from finegrain.demo.manual import manual_corpus

    corpus, size = manual_corpus(), 64
    rows = [[" ".join(words) for words in part] for part in (corpus.train, corpus.test)]
    number = numbers(rows[0], size)

    def encoded(part: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        x = windows([[number.get(c, 1) for c in row] for row in part], 8)
        return x[:, :8], x[:, 8]

    shapes = [(size, 12), *layers(96, 64, size)]
    return Task(encoded(rows[0]), encoded(rows[1]), shapes, embedded, 32)


def breast_cancer(_data: Path) -> Task:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return Task(*halves(standardized(x), y), layers(30, 16, 2), dense, 16)


def iris(_data: Path) -> Task:
    """Make the task of classifying irises, with two hidden layers."""
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    return Task(*halves(standardized(x), y), layers(4, 16, 16, 3), dense, 16)


def diabetes_wide(data: Path) -> Task:
    """Make the task `diabetes` with four times as many hidden units."""
    return diabetes(data)._replace(shapes=layers(10, 32, 1))


def digits_regression(_data: Path) -> Task:
    """Make the task of predicting the digit as a number."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    y = standardized(y[:, None].astype("float32"))
    return Task(*halves(x / 16, y), layers(64, 32, 1), regression, 32)


TASKS: dict[str, Callable[[], Task]] = {
    task.__name__: task
    for task in [
        digits,
        digits_small_batch,
        digits_tanh,
        wine,
        diabetes,
        mnist,
        ud_en_ewt,
        ud_zh_gsdsimp,
        characters,
    ]
}

# Those that the page shows beside the others, with other seeds.
HELD_OUT_TASKS: dict[str, Callable[[], Task]] = {
    task.__name__: task
    for task in [breast_cancer, iris, diabetes_wide, digits_regression, mnist_tanh]
}


# With the argument `--quick`: few steps of a small task, and of one that needs data.
QUICK_STEPS, QUICK_TASKS = 80, ["wine", "mnist"]

# Those whose training loss cannot reach 0: the model cannot fit its training set.
WITH_FLOOR = {"diabetes", "mnist", "mnist_tanh", "ud_en_ewt", "ud_zh_gsdsimp", "characters"}


class Store:
    """Results of pieces of a long benchmark, each written as soon as it is there.

    Args:
        name: Of the file in `build/bench`.
        resume: Whether to begin with the pieces that an earlier call left there.
    """

    def __init__(self, name: str, resume: bool) -> None:
        self.path = SCRATCH / f"{name}.json"
        kept = resume and self.path.exists()
        self.results = json.loads(self.path.read_text()) if kept else {}

    def piece(self, key: str, compute: Callable[[], Any]) -> None:
        """Compute and store a piece, unless it is there."""
        if key not in self.results:
            print(key, flush=True)
            self.results[key] = compute()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.results, indent=1) + "\n")


def losses(
    task: Task, method: Method, rates: Sequence[float], seeds: Sequence[int], steps: int
) -> dict[str, Any]:
    """Find the final losses of many runs, fit for JSON.

    Those of a part of the data are (rates, seeds) numbers, `None` where not finite.
    """
    curves = run_all(task, method, rates, seeds, steps)
    return {
        "rates": [float(rate) for rate in rates],
        **{
            part: [[float(f"{x:.5g}") if np.isfinite(x) else None for x in row] for row in final(c)]
            for part, c in curves.items()
        },
    }


def means(result: dict[str, Any], part: str) -> np.ndarray:
    """Compute the mean over the seeds for each rate, infinite where a run diverged."""
    rows = [[np.inf if x is None else x for x in row] for row in result[part]]
    return np.array(rows).mean(1)


def cost(task: Task, method: Method, rounds: int, steps: int = 2000) -> dict[str, float]:
    """Measure the microseconds of one model's training step, and count its state per weight."""
    x, y = (jnp.asarray(a[: task.batch]) for a in task.train)
    weights = initial(task.shapes, jax.random.key(0))
    state = method.init(weights, jnp.float32(1e-3))

    @jax.jit
    def run(weights: Weights, state: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            weights, state = carry
            return method.update(state, jax.grad(task.loss)(weights, x, y), weights), None

        def swapped(carry: Any, _: Any) -> Any:
            (weights, state), _ = step(carry, _)
            return (weights, state), None

        return jax.lax.scan(swapped, (weights, state), None, length=steps)[0]

    times = []
    for _ in range(1 + rounds):
        begin = time.perf_counter()
        jax.block_until_ready(run(weights, state))
        times.append(time.perf_counter() - begin)
    size = sum(math.prod(shape) for shape in task.shapes)
    held = sum(np.size(leaf) for leaf in jax.tree.leaves(state))
    return {"microseconds": 1e6 * min(times[1:]) / steps, "state_per_weight": held / size}
