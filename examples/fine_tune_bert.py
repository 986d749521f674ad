"""What helps when a pretrained BERT is fine-tuned on a few hundred texts?

The encoder is all-MiniLM-L6-v2: six layers, 22.7 million weights. Seven ways to fine-tune it take
as many steps. Each may try three learning rates, once, and keeps the one that does best on
validation texts. With that it is trained anew from three seeds, each with training texts of its
own, and scored on test texts that nothing was chosen by. What is said in the end is computed: a
difference counts if it is larger than seeds and test texts make it by chance.

The texts are sentences of film reviews, each rated by 20 people from −4 to 4: is it positive or
negative? Those rated between −0.5 and 0.5 are left out. They come with the source of vaderSentiment
0.5 (MIT licence; C. J. Hutto, Eric Gilbert, VADER: A parsimonious rule-based model for sentiment
analysis of social media text, 2014). Other texts are files with a label, a tab and a text in each
line.

    pip install 'finegrain[pretrained,torch]'
    pip download --no-deps vaderSentiment==0.5
    KERAS_BACKEND=torch python examples/fine_tune_bert.py
    KERAS_BACKEND=torch python examples/fine_tune_bert.py --resume    # after an interruption
    KERAS_BACKEND=torch python examples/fine_tune_bert.py --data train.tsv test.tsv

That is 42 trainings of 30 steps, on PyTorch 14 minutes with two cores. JAX and TensorFlow also
compile each of them. `--methods "one rate" Muon` tries Muon, whose steps take longer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from _texts import Encoder, Part, Texts, made_up, own, pretrained, reviews, tiny
from keras import ops
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import finegrain as fg

BATCH, RANK = 32, 8
# The t distribution's 97.5 % quantile, by degrees of freedom.
QUANTILES = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
console = Console()


# The ways to fine-tune.


class Method(NamedTuple):
    """Rules for a model, given its rate and the number of epochs, and the rates to try."""

    rules: Callable[[keras.Model, float, int], list[fg.Rule]]
    rates: tuple[float, ...] = (5e-5, 2e-4, 8e-4)
    adapts: str = "all"  # or "head", "lora", "in stages"
    against: str = "one rate"


def stages(model: keras.Model, epochs: int) -> dict[int, list[Any]]:
    """Say what each epoch but the first releases, from the output to the input."""
    levels = [rule.selectors for rule in fg.layer_decay(model, 0.5)][::-1]
    parts = np.array_split(np.arange(len(levels)), max(1, epochs - 1))
    return {
        epoch: [selector for level in part for selector in levels[level]]
        for epoch, part in enumerate(parts, 1)
        if len(part)
    }


def decay(model: keras.Model, rate: float, epochs: int) -> list[fg.Rule]:
    return [*fg.layer_decay(model, 0.8), *fg.recipes.no_weight_decay(model)]


METHODS = {
    "head only": Method(lambda *_: [], (1e-2, 4e-2, 1.6e-1), "head"),
    "one rate": Method(lambda *_: []),
    "head first": Method(lambda model, rate, epochs: fg.recipes.head_first(model, 10)),
    "layer decay": Method(decay),
    "unfreezing": Method(lambda *_: [], (2e-4, 8e-4, 3.2e-3), "in stages"),
    "LoRA": Method(lambda *_: [], (2e-3, 8e-3, 3.2e-2), "lora"),
    "LoRA+": Method(
        lambda model, rate, epochs: fg.recipes.lora_plus(model),
        (8e-4, 3.2e-3, 1.28e-2),
        "lora",
        "LoRA",
    ),
    "Muon": Method(lambda model, rate, epochs: fg.recipes.muon(model, rate), (2e-4, 8e-4, 3.2e-3)),
}
USUAL = [method for method in METHODS if method != "Muon"]


# The model.


def classifier(encoder: Encoder, classes: int, length: int, adapts: str) -> keras.Model:
    """Put a head onto the mean of a BERT's output over the tokens of a text."""
    from keras_hub.models import BertBackbone

    backbone = BertBackbone(**{**encoder.config, "name": "encoder"})
    if encoder.weights is not None:
        backbone.set_weights(encoder.weights)
    backbone.get_layer("pooled_dense").trainable = False  # nothing here reads its output
    if adapts == "head":
        backbone.trainable = False  # and not by a rule: gradients would be computed for nothing
    elif adapts == "lora":
        backbone.enable_lora(RANK)
    ids = keras.Input((length,), dtype="int32", name="ids")
    mask = ops.cast(ops.not_equal(ids, 0), "int32")
    inputs = {"token_ids": ids, "segment_ids": ops.zeros_like(ids), "padding_mask": mask}
    x = backbone(inputs)["sequence_output"]
    x = keras.layers.GlobalAveragePooling1D()(x, mask=mask)
    x = keras.layers.Dropout(0.1)(x)
    return keras.Model(ids, keras.layers.Dense(classes, name="head")(x), name="classifier")


def warm_up_and_decay(steps: int) -> fg.Rule:
    """Make a rule that multiplies all rates by the same shape: up for a tenth, down to the end."""
    up = max(1, steps // 10)

    def shape(step: Any) -> Any:
        step = ops.cast(step, "float32") + 1.0
        return ops.minimum(step / up, (steps + 1.0 - step) / (steps + 1.0 - up))

    # Muon's weights too, which the base rate and its schedule would not reach.
    return fg.Rule(".", learning_rate_multiplier=shape, cumulative=True, name="schedule")


def trained(
    encoder: Encoder, method: str, rate: float, seed: int, part: Part, classes: int, epochs: int
) -> keras.Model:
    keras.utils.set_random_seed(seed)
    way = METHODS[method]
    model = classifier(encoder, classes, part.ids.shape[1], way.adapts)
    rules = way.rules(model, rate, epochs)
    callbacks = []
    if way.adapts == "in stages":
        callbacks.append(fg.callbacks.Unfreeze(stages(model, epochs)))
    schedule = warm_up_and_decay(epochs * -(-len(part.labels) // BATCH))
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.01)
    model.compile(
        fg.PerWeight(optimizer, [*rules, schedule]),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(
        part.ids,
        part.labels,
        batch_size=BATCH,
        epochs=epochs,
        callbacks=callbacks,
        verbose=0,
    )
    return model


# What came out.


def right(model: keras.Model, part: Part) -> tuple[str, float]:
    """Tell for each text whether it was classified rightly, as "10…", and compute the macro F1."""
    found = model.predict(part.ids, batch_size=64, verbose=0).argmax(-1)
    scores = []
    for label in np.unique(part.labels):
        hits = ((found == label) & (part.labels == label)).sum()
        scores.append(2 * hits / ((found == label).sum() + (part.labels == label).sum()))
    return "".join("01"[int(hit)] for hit in found == part.labels), float(np.mean(scores))


def bits(runs: list[dict[str, Any]]) -> np.ndarray:
    """Return what was right, (seeds, texts)."""
    return np.array([[int(bit) for bit in run["right"]] for run in runs], "float64")


def difference(runs: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the accuracies of two methods, in points, seed by seed and text by text.

    Returns:
        The differences of the seeds, their mean, and half the width of two 95 % intervals round
        it: by what the seeds vary, and by what the test texts vary.
    """
    pairs = 100 * (bits(runs) - bits(others))
    seeds, texts = pairs.mean(1), pairs.mean(0)
    number = len(seeds)
    by_seeds = float("inf")
    if number > 1:
        quantile = QUANTILES.get(number - 1, 2.26)
        by_seeds = float(quantile * seeds.std(ddof=1) / np.sqrt(number))
    by_texts = float(1.96 * texts.std(ddof=1) / np.sqrt(len(texts)))
    return {
        "seeds": seeds.tolist(),
        "mean": float(seeds.mean()),
        "by_seeds": by_seeds,
        "by_texts": by_texts,
    }


def sentence(method: str, against: str, found: dict[str, Any]) -> str:
    """Say what a comparison carries, and no more."""
    by = ", ".join(f"{value:+.1f}" for value in found["seeds"])
    start = f"{method} against {against}: {found['mean']:+.1f} points of accuracy ({by})"
    chance = f"seeds (± {found['by_seeds']:.1f}) and test texts (± {found['by_texts']:.1f})"
    if abs(found["mean"]) > max(found["by_seeds"], found["by_texts"]):
        effect = "It helped" if found["mean"] > 0 else "It did harm"
        return f"{start}. {effect}: by chance {chance} make less of a difference."
    return f"{start}. No difference is shown: by chance {chance} make as much of one."


def chosen_rate(runs: dict[str, Any], method: str) -> float:
    """Return the rate that does best on the validation texts, the smaller one of two as good."""
    rates = METHODS[method].rates
    return max(rates, key=lambda rate: (runs[f"{method}, {rate:g}"]["accuracy"], -rate))


def show(results: dict[str, Any], methods: list[str], seeds: list[int]) -> None:
    """Print the table of means and standard deviations over the seeds, and what follows from it."""
    runs, settings = results["runs"], results["settings"]
    table = Table(title=f"{settings['data']}, {settings['encoder']}, {settings['steps']} steps")
    table.add_column("", no_wrap=True)
    for name in ("rate", "accuracy, %", "each seed", "macro F1", "s / run"):
        table.add_column(name, justify="right")
    final = {}
    for method in methods:
        rate, rates = chosen_rate(runs, method), METHODS[method].rates
        final[method] = own_runs = [runs[f"{method}, seed {seed}"] for seed in seeds]
        accuracies = [100 * run["accuracy"] for run in own_runs]
        spread = f" ± {statistics.stdev(accuracies):.1f}" if len(seeds) > 1 else ""
        table.add_row(
            method,
            f"{rate:g}{'*' if rate in (rates[0], rates[-1]) else ''}",
            f"{statistics.mean(accuracies):.1f}{spread}",
            ", ".join(f"{accuracy:.1f}" for accuracy in accuracies),
            f"{100 * statistics.mean(run['f1'] for run in own_runs):.1f}",
            f"{statistics.mean(run['seconds'] for run in own_runs):.0f}",
        )
    console.print(table)
    console.print("± is the standard deviation over the seeds; * the first or last rate of three.")
    for method in methods:
        against = METHODS[method].against
        if against in methods and against != method:
            found = difference(final[method], final[against])
            console.print(sentence(method, against, found))
    console.print("Each comparison by itself errs in about one case of 20; there are several here.")


def picture(path: Path, results: dict[str, Any], methods: list[str], seeds: list[int]) -> None:
    figure = Figure(figsize=(7.2, 0.42 * len(methods) + 1.1), layout="constrained")
    axes = figure.subplots()
    for place, method in enumerate(methods):
        runs = [results["runs"][f"{method}, seed {seed}"] for seed in seeds]
        accuracies = [100 * run["accuracy"] for run in runs]
        axes.plot(accuracies, [place] * len(runs), "o", color="C0", alpha=0.6, markersize=5)
        axes.plot([statistics.mean(accuracies)], [place], "|", color="0.2", markersize=18)
    axes.set(xlabel="test accuracy, %: seeds and their mean", yticks=range(len(methods)))
    axes.set_yticklabels(
        [f"{method}, {chosen_rate(results['runs'], method):g}" for method in methods]
    )
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})


# The experiment.


def write_json(path: Path, value: Any) -> None:
    """Write a file as a whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".part")
    whole.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(whole, path)


def experiment(
    results: dict[str, Any],
    keep: Callable[[], None],
    encoder: Encoder,
    texts: Texts,
    arguments: argparse.Namespace,
) -> None:
    """Try the rates of each method, then train it from each seed; runs that are there remain."""
    runs = results["runs"]
    encoded = {
        "validation": encoder.encode(
            texts.train[: arguments.validation], texts.classes, arguments.length
        ),
        "test": encoder.encode(texts.test[: arguments.test], texts.classes, arguments.length),
    }
    pool = texts.train[arguments.validation :]
    total = sum(len(METHODS[m].rates) + len(arguments.seeds) for m in arguments.methods)
    done = 0

    def run(name: str, method: str, rate: float, seed: int, scored: str) -> None:
        nonlocal done
        done += 1
        if name in runs and runs[name]["rate"] == rate:
            return
        begin = time.perf_counter()
        chosen = np.random.default_rng(seed).permutation(len(pool))[: arguments.texts]
        part = encoder.encode([pool[i] for i in chosen], texts.classes, arguments.length)
        model = trained(encoder, method, rate, seed, part, len(texts.classes), arguments.epochs)
        hits, f1 = right(model, encoded[scored])
        accuracy = hits.count("1") / len(hits)
        seconds = round(time.perf_counter() - begin, 1)
        runs[name] = {"rate": rate, "accuracy": accuracy, "f1": f1, "seconds": seconds}
        if scored == "test":
            runs[name]["right"] = hits
        keep()
        console.print(
            f"[{done}/{total}] {name}: {scored} {accuracy:.1%}, {seconds:.0f} s", markup=False
        )

    for method in arguments.methods:
        for rate in METHODS[method].rates:
            run(f"{method}, {rate:g}", method, rate, 0, "validation")
    for method in arguments.methods:
        for seed in arguments.seeds:
            run(f"{method}, seed {seed}", method, chosen_rate(runs, method), seed, "test")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs="+", default=[Path("vaderSentiment-0.5.zip")])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=USUAL)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="0 chose the rates")
    parser.add_argument("--texts", type=int, default=320, help="to train on")
    parser.add_argument("--validation", type=int, default=256, help="texts to choose rates by")
    parser.add_argument("--test", type=int, default=800, help="texts to be scored on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--length", type=int, default=32, help="tokens, after which texts are cut")
    parser.add_argument("--folder", type=Path, default=Path("build/fine_tune_bert"))
    parser.add_argument("--resume", action="store_true", help="keep the runs that are there")
    parser.add_argument("--quick", action="store_true", help="see it run: nothing is pretrained")
    arguments = parser.parse_args()
    if len(arguments.data) > 2 or (len(arguments.data) == 1 and arguments.data[0].suffix != ".zip"):
        parser.error("--data takes the zip file, or a file to train on and one to be scored on")
    if arguments.quick:
        texts = made_up()
    else:
        texts = own(*arguments.data) if len(arguments.data) == 2 else reviews(arguments.data[0])
    encoder = tiny(texts) if arguments.quick else pretrained()
    arguments.validation = min(arguments.validation, len(texts.train) // 3)
    arguments.texts = min(arguments.texts, len(texts.train) - arguments.validation)
    arguments.test = min(arguments.test, len(texts.test))
    if not min(arguments.validation, arguments.texts, arguments.test):
        raise SystemExit(
            f"Too few texts: {len(texts.train)} to train on, {len(texts.test)} to test"
        )
    settings = {
        "data": texts.name,
        "encoder": encoder.name,
        "backend": keras.backend.backend(),
        "steps": arguments.epochs * -(-arguments.texts // BATCH),
    }
    for name in ("texts", "validation", "test", "epochs", "length"):
        settings[name] = getattr(arguments, name)
    path = arguments.folder / "results.json"
    results: dict[str, Any] = {"settings": settings, "runs": {}}
    if path.exists():
        kept = json.loads(path.read_text())
        if not arguments.resume:
            raise SystemExit(f"{path} is there: --resume goes on with it, --folder names another")
        if kept["settings"] != settings:
            raise SystemExit(f"{path} was made otherwise, with {kept['settings']}: not {settings}")
        results = kept
    experiment(results, lambda: write_json(path, results), encoder, texts, arguments)
    show(results, arguments.methods, arguments.seeds)
    picture(arguments.folder / "fine-tune.png", results, arguments.methods, arguments.seeds)
    console.print(f"Kept in {arguments.folder}: results.json, fine-tune.png")


if __name__ == "__main__":
    main()
