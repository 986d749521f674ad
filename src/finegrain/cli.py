"""The `finegrain` command: demo, train, segment, score."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.console import Console

from finegrain.monitoring.progress import TrainingProgress
from finegrain.tagging import CorpusError, Segmenter, read_segmented
from finegrain.tagging.demo import run_demo
from finegrain.tagging.report import print_report, score_table
from finegrain.tagging.training import Interruption

app = typer.Typer(
    help="Word segmentation with a CRF whose transitions learn at a rate of their own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's boxes cut long options off
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _model_file(path: Path) -> Path:
    if path.suffix != ".keras":
        raise typer.BadParameter(f"the name should end in .keras, received {path}")
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a folder: name a file in it")
    if not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent} to write {path.name} into")
    return path


class EncoderName(StrEnum):
    """The encoders that have a name."""

    cnn = "cnn"
    bilstm = "bilstm"


ModelFile = Annotated[Path, typer.Argument(help="A .keras file that `finegrain train` made.")]
Seed = Annotated[
    int,
    typer.Option(min=0, max=2**32 - 1, help="Of weights, order, held-out sentences."),
]


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for model and picture.")] = Path(
        "demo"
    ),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training sentences.")] = 6,
    seed: Seed = 0,
) -> None:
    """Train three taggers on Python's own manual, its blanks removed, and compare them."""
    console = Console()
    with _plain_errors():
        out.mkdir(parents=True, exist_ok=True)
        result = run_demo(out, console, epochs=epochs, seed=seed)
    print_report(result, console)


@app.command()
def train(
    corpus: Annotated[
        Path, typer.Argument(help="UTF-8 text, a sentence a line, words separated by blanks.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The .keras file to write.", callback=_model_file),
    ],
    validation: Annotated[
        Path | None,
        typer.Option(help="Corpus to choose the best epoch by. Default: 5 % of CORPUS."),
    ] = None,
    encoder: Annotated[EncoderName, typer.Option(help="What reads the text.")] = EncoderName.cnn,
    crf: Annotated[
        bool, typer.Option("--crf/--softmax", help="Whether neighbouring tags depend on each other")
    ] = True,
    crf_learning_rate_multiplier: Annotated[
        float, typer.Option(min=0.0, help="The transitions learn at learning rate × this.")
    ] = 100.0,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Most passes over the corpus. Default: about 800 steps."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences a step.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Peak learning rate.")] = 2e-3,
    seed: Seed = 0,
) -> None:
    """Train a segmenter on a corpus; Ctrl-C keeps the best epoch so far."""
    console = Console(stderr=True)
    with _plain_errors():
        try:
            segmenter = Segmenter(
                encoder.value,
                crf=crf,
                crf_learning_rate_multiplier=crf_learning_rate_multiplier,
                learning_rate=learning_rate,
                seed=seed,
            )
        except ValueError as error:
            raise _UserError(str(error)) from error
        sentences = read_segmented(corpus)
        held_out = 0.05 if validation is None else read_segmented(validation)
    try:
        with _plain_errors(), TrainingProgress(console) as progress, Interruption() as interruption:
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
            _say(console, "Interrupted before the first epoch ended: no model was written.")
        else:
            _say(console, f"Interrupted. {out} holds the best model so far: {best}.")
        raise typer.Exit(130) from None
    _say(console, f"{out} holds the best model. On the held-out sentences:")
    _say(console, f"{segmenter.validation_score}.")
    _say(console, f"Next: finegrain segment {out} TEXT, finegrain score {out} CORPUS")


@app.command()
def segment(
    model: ModelFile,
    file: Annotated[
        Path | None, typer.Argument(help="UTF-8 text. Default: standard input.")
    ] = None,
) -> None:
    """Put blanks between the words of a text, line by line."""
    with _plain_errors():
        segmenter = _load(model)
        with contextlib.ExitStack() as stack:
            # Standard input gets a reader of its own: Python closes the one in `sys` at exit, and
            # aborts if the thread below waits in it.
            source = (
                open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: SIM115 (never closed)
                if file is None
                else stack.enter_context(file.open("rb"))
            )
            for lines in _groups_of_lines(source):
                texts = [line.removesuffix("\n") for line in lines]
                for line, words in zip(lines, segmenter.segment_many(texts), strict=True):
                    segmented = " ".join(word for word in words if not word.isspace())
                    newline = "\n" if line.endswith("\n") else ""
                    sys.stdout.buffer.write((segmented + newline).encode())
                sys.stdout.buffer.flush()


@app.command()
def score(
    model: ModelFile,
    corpus: Annotated[
        Path, typer.Argument(help="UTF-8 text, a sentence a line, words separated by blanks.")
    ],
) -> None:
    """Compare the segmenter's words with those of a corpus, as the SIGHAN bakeoffs did."""
    with _plain_errors():
        result = _load(model).score(corpus)
    Console().print(score_table({model.name: result}))


def main() -> None:
    """Runs the command; Ctrl-C ends it with status 130, a closed pipe quietly."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # What is still in the buffer has nowhere to go: keep Python from trying at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(console: Console, text: str) -> None:
    """Prints a line as it is: names and paths are no markup, and are not broken."""
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


class _UserError(Exception):
    """Something that the user can mend."""


def _load(model: Path) -> Segmenter:
    try:
        return Segmenter.load(model)
    except ValueError as error:
        raise _UserError(str(error)) from error


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Turns errors that tell the user what to mend into one line and exit status 2."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (CorpusError, OSError, _UserError) as error:
        _say(Console(stderr=True), f"error: {error}")
        raise typer.Exit(2) from None


def _groups_of_lines(source: BinaryIO, most: int = 256) -> Iterator[list[str]]:
    """The lines of `source` as they come: all that are waiting, at least one, at a time."""
    lines: queue.Queue[str | BaseException | None] = queue.Queue(maxsize=2 * most)

    def read() -> None:
        try:
            for number, line in enumerate(source, start=1):
                try:
                    lines.put(line.decode())
                except UnicodeDecodeError as error:
                    raise _UserError(
                        f"line {number}: expected UTF-8. Received: {error.reason} at byte "
                        f"{error.start + 1} of the line. Cure: convert the text to UTF-8."
                    ) from error
            lines.put(None)
        except BaseException as error:
            lines.put(error)

    threading.Thread(target=read, daemon=True).start()
    while True:
        group = [lines.get()]
        with contextlib.suppress(queue.Empty):
            while len(group) < most and isinstance(group[-1], str):
                group.append(lines.get_nowait())
        *texts, last = group
        if isinstance(last, str):
            texts.append(last)
        if texts:
            yield [text for text in texts if isinstance(text, str)]
        if isinstance(last, BaseException):
            raise last
        if last is None:
            return
