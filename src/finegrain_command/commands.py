"""What the commands do. Importing this imports Keras: its backend has to be settled before."""

from __future__ import annotations

import contextlib
import importlib
import shlex
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import typer
from rich.console import Console

from finegrain.demo.report import print_report, score_table
from finegrain.demo.run import DemoResult, run_demo
from finegrain.tagger.progress import TrainingProgress
from finegrain.tagger.training import Interruption
from finegrain.tagging import (
    LabelScore,
    SegmentationScore,
    Segmenter,
    SpanScore,
    Tagger,
    TrainingDivergedError,
    read_columns,
    read_segmented,
)
from finegrain_command.streams import (
    UserError,
    in_one_line,
    say,
    standard_output,
)


def demo(out: Path, *, epochs: int, seed: int, command: str) -> None:
    """Train the three taggers into the folder `out`, and print the report."""
    console = Console()
    with standard_output():
        result = run_demo(out, console, epochs=epochs, seed=seed)
    _report(result, console, command)
    if result.failures:
        raise UserError("; ".join(result.failures.values()))


def _report(result: DemoResult, console: Console, command: str) -> None:
    """Print the report; if standard output cannot be written, print it on standard error."""
    try:
        with standard_output():
            print_report(result, console, command)
    except UserError:
        with contextlib.suppress(OSError):
            print_report(result, Console(stderr=True), command)
        raise


def train(
    corpus: Path,
    out: Path,
    *,
    task: str,
    validation: Path | None,
    encoder: str | None,
    backbone: str | None,
    layers: int | None,
    crf: bool,
    crf_learning_rate_multiplier: float,
    epochs: int | None,
    batch_size: int,
    learning_rate: float | None,
    seed: int,
    resume: bool,
    command: str,
) -> None:
    """Train a tagger and write it to the file `out`."""
    try:
        tagger = Tagger(
            task,
            encoder,
            **_pretrained(backbone),
            layers=layers,
            crf=crf,
            crf_learning_rate_multiplier=crf_learning_rate_multiplier,
            learning_rate=learning_rate,
            seed=seed,
        )
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    try:
        read = read_segmented if task == "segment" else read_columns
        sentences: list[Any] = read(corpus)
        held_out = 0.05 if validation is None else read(validation)
        progress = TrainingProgress(Console(stderr=True))
        with progress, Interruption() as interruption:
            tagger.fit(
                sentences,
                validation=held_out,
                epochs=epochs,
                batch_size=batch_size,
                save_to=out,
                resume=resume or None,
                callbacks=[progress.bar(out.name), interruption],
                verbose=0,
            )
    except KeyboardInterrupt:
        best = tagger.validation_score
        if best is None:
            say("Interrupted before the first epoch ended: no model was written.")
        else:
            say(f"Interrupted. {out} holds the best model so far: {_in_short(best)}.")
            say("To go on, run the same command with --resume.")
        raise typer.Exit(130) from None
    except TrainingDivergedError as error:
        best = tagger.validation_score
        kept = "No model was written"
        if best is not None:
            kept = f"{out} holds the best epoch: {_in_short(best)}"
        raise UserError(f"{error} {kept}. Cure: a lower --learning-rate") from error
    except ValueError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    say(f"{out} holds the best model. On the held-out sentences:")
    say(f"{_in_short(tagger.validation_score)}.")
    model = shlex.quote(str(out))
    say("Next:")
    if task == "segment":
        say(f"  echo {_sample(sentences)} | {command} segment {model}")
    else:
        words = next((words for words, _ in sentences if len(words) < 12), sentences[0][0])
        say(f"  echo {shlex.quote(' '.join(words))} | {command} tag {model}")
    say(f"  {command} score {model} {shlex.quote(str(validation or corpus))}")


def _pretrained(preset: str | None) -> dict[str, Any]:
    """Load a backbone of KerasHub and its tokenizer, from a folder or by the name of a preset."""
    if preset is None:
        return {}
    try:
        keras_hub: Any = importlib.import_module("keras_hub")
    except ModuleNotFoundError as error:
        raise UserError(
            "A backbone needs keras_hub, which is not installed. Cure: pip install keras-hub"
        ) from error
    try:
        return {
            "backbone": keras_hub.models.Backbone.from_preset(preset),
            "tokenizer": keras_hub.tokenizers.Tokenizer.from_preset(preset),
        }
    except Exception as error:  # what is not there, or is no preset, can make anything fail
        raise UserError(
            f"{preset} cannot be loaded as a preset of KerasHub ({type(error).__name__}: "
            f"{in_one_line(error)})"
        ) from error


def _in_short(score: SegmentationScore | SpanScore | LabelScore | None) -> str:
    if isinstance(score, SpanScore):
        return f"F1 {score.f1:.4f}, precision {score.precision:.4f}, recall {score.recall:.4f}"
    if isinstance(score, LabelScore):
        return f"accuracy {score.accuracy:.4f}"
    return str(score)


def _sample(sentences: Sequence[Sequence[str]]) -> str:
    """Find a piece of the corpus without blanks, of characters that mean nothing to a shell."""
    for words in sentences:
        text = "".join(takewhile(str.isalnum, words))
        if len(text) > 1:
            return text[:40]
    return "text"


def score(model: Path, corpus: Path) -> None:
    """Print how well the tagger does on a corpus."""
    tagger = load(model, "Tagger")
    try:
        result = tagger.score(corpus)
    except ValueError as error:
        raise UserError(str(error)) from error
    with standard_output():
        if isinstance(result, SegmentationScore):
            Console().print(score_table({model.name: result}))
        else:
            sys.stdout.write(f"{result}\n")


def load(model: Path, kind: Literal["Segmenter", "Tagger"]) -> Any:
    """Load a segmenter or a tagger.

    Raises:
        UserError: if the file holds none.
    """
    try:
        return (Segmenter if kind == "Segmenter" else Tagger).load(model)
    except ValueError as error:
        raise UserError(str(error)) from error
