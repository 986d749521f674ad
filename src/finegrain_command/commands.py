"""What the four commands do. Importing this imports Keras: its backend has to be settled before."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import typer
from rich.console import Console

from finegrain.demo.report import print_report, score_table
from finegrain.demo.run import DemoResult, run_demo
from finegrain.tagger.progress import TrainingProgress
from finegrain.tagger.training import Interruption
from finegrain.tagging import CorpusError, Segmenter, TrainingDivergedError, read_segmented
from finegrain_command.streams import UserError, groups_of_lines, say, standard_output


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
    validation: Path | None,
    encoder: str,
    crf: bool,
    crf_learning_rate_multiplier: float,
    epochs: int | None,
    batch_size: int,
    learning_rate: float,
    seed: int,
    command: str,
) -> None:
    """Train a segmenter and write it to the file `out`."""
    try:
        segmenter = Segmenter(
            encoder,
            crf=crf,
            crf_learning_rate_multiplier=crf_learning_rate_multiplier,
            learning_rate=learning_rate,
            seed=seed,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        sentences = read_segmented(corpus)
        held_out = 0.05 if validation is None else read_segmented(validation)
        progress = TrainingProgress(Console(stderr=True))
        with progress, Interruption() as interruption:
            segmenter.fit(
                sentences,
                validation=held_out,
                epochs=epochs,
                batch_size=batch_size,
                save_to=out,
                callbacks=[progress.bar(out.name), interruption],
                verbose=0,
            )
    except KeyboardInterrupt:
        best = segmenter.validation_score
        if best is None:
            say("Interrupted before the first epoch ended: no model was written.")
        else:
            say(f"Interrupted. {out} holds the best model so far: {best}.")
        raise typer.Exit(130) from None
    except TrainingDivergedError as error:
        best = segmenter.validation_score
        kept = "No model was written" if best is None else f"{out} holds the best epoch: {best}"
        raise UserError(f"{error} {kept}. Cure: a lower --learning-rate") from error
    except CorpusError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    say(f"{out} holds the best model. On the held-out sentences:")
    say(f"{segmenter.validation_score}.")
    model = shlex.quote(str(out))
    say("Next:")
    say(f"  echo {_sample(sentences)} | {command} segment {model}")
    say(f"  {command} score {model} {shlex.quote(str(validation or corpus))}")


def _sample(sentences: Sequence[Sequence[str]]) -> str:
    """Find a piece of the corpus without blanks, of characters that mean nothing to a shell."""
    for words in sentences:
        text = "".join(takewhile(str.isalnum, words))
        if len(text) > 1:
            return text[:40]
    return "text"


def segment(model: Path, file: Path | None) -> None:
    """Print a file, or standard input, with blanks between the words."""
    segmenter = _load(model)
    with contextlib.ExitStack() as stack:
        # Standard input gets a reader of its own: Python closes the one in `sys` at exit, and
        # aborts if the thread that reads waits in it.
        source = (
            open(0, "rb", closefd=False)  # noqa: SIM115 (never closed)
            if file is None
            else stack.enter_context(file.open("rb"))
        )
        name = "standard input" if file is None else str(file)
        for lines in groups_of_lines(source, name):
            texts = [line.removesuffix("\n") for line in lines]
            with standard_output():
                for line, words in zip(lines, segmenter.segment_many(texts), strict=True):
                    segmented = " ".join(word for word in words if not word.isspace())
                    newline = "\n" if line.endswith("\n") else ""
                    sys.stdout.buffer.write((segmented + newline).encode())


def score(model: Path, corpus: Path) -> None:
    """Print how many of a corpus's words the segmenter finds."""
    segmenter = _load(model)
    try:
        result = segmenter.score(corpus)
    except CorpusError as error:
        raise UserError(str(error)) from error
    with standard_output():
        Console().print(score_table({model.name: result}))


def _load(model: Path) -> Segmenter:
    try:
        return Segmenter.load(model)
    except ValueError as error:
        raise UserError(str(error)) from error
