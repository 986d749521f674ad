"""What the command takes: its commands, their arguments and their help."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from finegrain_command.backend import ends_at_once, load_commands
from finegrain_command.streams import (
    UserError,
    give_up_output,
    in_one_line,
    open_closed_streams,
    plain_errors,
    say,
)

BACKEND_HELP = (
    "Keras's backend is what KERAS_BACKEND names: jax, torch or tensorflow. Where it is not set, "
    "what keras.json names in ~/.keras, or else the first of the three that is installed."
)

READER_HELP = (
    "It does without Keras, and begins at once. A model with a backbone, or with an encoder of its "
    "own, needs Keras; its backend is what KERAS_BACKEND names, else the first that is installed."
)

app = typer.Typer(
    help="Taggers with a CRF whose transitions learn at a rate of their own: words of a text "
    "without blanks, names and other spans, labels of words.",
    epilog=BACKEND_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's boxes cut long options off
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _file_to_write(suffix: str) -> Callable[[Path], Path]:
    """Make what checks the name of a file to write, so that nothing is done in vain."""

    def check(path: Path) -> Path:
        if path.suffix != suffix:
            raise typer.BadParameter(f"the name should end in {suffix}, received {path}")
        try:
            folder = path.absolute().parent
            if path.is_dir():
                raise typer.BadParameter(f"{path} is a folder: name a file in it")
            if not folder.is_dir():
                raise typer.BadParameter(
                    f"there is no folder {path.parent} to write {path.name} into"
                )
        except OSError as error:  # such as a name that is too long
            raise typer.BadParameter(in_one_line(error)) from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise typer.BadParameter(f"nothing can be written into the folder {path.parent}")
        return path

    return check


def _finite(value: float | None) -> float | None:
    if value is not None and not value < float("inf"):  # nor NaN
        raise typer.BadParameter(f"expected a finite number, received {value}")
    return value


class EncoderName(StrEnum):
    """The encoders that have a name."""

    cnn = "cnn"
    bilstm = "bilstm"


class TaskName(StrEnum):
    """What a tagger can tag."""

    segment = "segment"
    spans = "spans"
    labels = "labels"


ModelFile = Annotated[Path, typer.Argument(help="A .keras file that `finegrain train` made.")]
UsedFile = Annotated[
    Path, typer.Argument(help="A .keras file that `finegrain train` made, or a .fg file.")
]
CorpusFile = Annotated[
    Path,
    typer.Argument(
        help="UTF-8 text. To cut text into words: a sentence a line, blanks between its words. "
        "For spans and labels: columns, as CoNLL-2003 and CoNLL-U have them."
    ),
]
Seed = Annotated[
    int,
    typer.Option(min=0, max=2**32 - 1, help="Of weights, order, held-out sentences."),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace files that are there.")]
# Far beyond any use, and still within what Keras can count.
MOST = 1_000_000


@app.command(epilog=BACKEND_HELP)
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for model and picture.")] = Path(
        "demo"
    ),
    epochs: Annotated[
        int, typer.Option(min=1, max=MOST, help="Passes over the training sentences.")
    ] = 6,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Train three taggers on finegrain's own manual, its blanks removed, and compare them."""
    with plain_errors():
        _refuse_to_replace([out / "segmenter.keras", out / "transitions.png"], force)
        commands = load_commands()
        out.mkdir(parents=True, exist_ok=True)
        commands.demo(out, epochs=epochs, seed=seed, command=_own_name())


@app.command(epilog=BACKEND_HELP)
def train(
    corpus: CorpusFile,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="The .keras file to write.", callback=_file_to_write(".keras")
        ),
    ],
    task: Annotated[
        TaskName,
        typer.Option(help="The words of a text, spans of words such as names, or labels of words."),
    ] = TaskName.segment,
    validation: Annotated[
        Path | None,
        typer.Option(help="Corpus to choose the best epoch by. Default: 5 % of CORPUS."),
    ] = None,
    encoder: Annotated[
        EncoderName | None,
        typer.Option(
            help="What reads the text. Default: cnn for characters, bilstm for words, none above a "
            "backbone."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="A pretrained encoder: a preset of KerasHub, or a folder with one."),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Blocks of the backbone, from the first. Default: all")
    ] = None,
    crf: Annotated[
        bool, typer.Option("--crf/--softmax", help="Whether neighbouring tags depend on each other")
    ] = True,
    crf_learning_rate_multiplier: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1e6,
            callback=_finite,
            help="The transitions learn at learning rate × this.",
        ),
    ] = 100.0,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST,
            help="Most passes over the corpus. Default: about 800 steps for characters, 3000 for "
            "words; 5 passes with a backbone.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most sentences a step.")] = 16,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1e30,
            callback=_finite,
            help="Peak learning rate. Default: 2e-3; 1e-4 for a backbone.",
        ),
    ] = None,
    seed: Seed = 0,
    force: Force = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the same training, which was interrupted.")
    ] = False,
) -> None:
    """Train a tagger on a corpus; Ctrl-C keeps the best epoch so far."""
    with plain_errors():
        _refuse_to_replace([out], force or resume)
        load_commands().train(
            corpus,
            out,
            task=task.value,
            validation=validation,
            encoder=None if encoder is None else encoder.value,
            backbone=backbone,
            layers=layers,
            crf=crf,
            crf_learning_rate_multiplier=crf_learning_rate_multiplier,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            resume=resume,
            command=_own_name(),
        )


@app.command(epilog=READER_HELP)
def segment(
    model: UsedFile,
    file: Annotated[
        Path | None, typer.Argument(help="UTF-8 text. Default: standard input.")
    ] = None,
    separator: Annotated[
        str, typer.Option("--separator", "-s", help="What to put between words. Default: a blank.")
    ] = " ",
    words: Annotated[
        Path | None,
        typer.Option(
            help="Words to prefer where they fit: one a line, its weight behind a TAB if it is not "
            "to have the usual 5."
        ),
    ] = None,
) -> None:
    """Put blanks between the words of a text, and leave its own blanks and lines as they are."""
    with plain_errors(), ends_at_once():
        from finegrain_command import reading

        reading.segment(model, file, separator, words)


@app.command(epilog=READER_HELP)
def tag(
    model: UsedFile,
    file: Annotated[
        Path | None,
        typer.Argument(
            help="UTF-8 text, a sentence a line, blanks between its words. Default: standard input."
        ),
    ] = None,
) -> None:
    """Print each word of a text with its tag, and an empty line after each sentence."""
    with plain_errors(), ends_at_once():
        from finegrain_command import reading

        reading.tag(model, file)


@app.command()
def export(
    model: ModelFile,
    file: Annotated[
        Path, typer.Argument(help="The .fg file to write.", callback=_file_to_write(".fg"))
    ],
    force: Force = False,
) -> None:
    """Write a model to a .fg file, for use without Keras."""
    with plain_errors():
        _refuse_to_replace([file], force, "another name")
        from finegrain_command import reading

        reading.export(model, file)


@app.command(epilog=BACKEND_HELP)
def score(model: ModelFile, corpus: CorpusFile) -> None:
    """Compare what the tagger finds with a corpus: words as the SIGHAN bakeoffs did, or tags."""
    with plain_errors(), ends_at_once():
        load_commands().score(model, corpus)


def run() -> int:
    """Run the command on the arguments of the process, and return its exit status."""
    open_closed_streams()
    status: int | str | None = 0
    try:
        try:
            app()
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough.
        give_up_output()
        status = 1
    except OSError as error:
        give_up_output()
        say(f"error: standard output cannot be written: {in_one_line(error)}")
        status = 2
    return status if isinstance(status, int) else 0


def _refuse_to_replace(
    files: Sequence[Path], force: bool, other: str = "another name with --out"
) -> None:
    for file in files:
        if os.path.lexists(file) and not force:
            raise UserError(f"{file} is there already. Cure: --force to replace it, or {other}")


def _own_name() -> str:
    """Return how the command is called here, for the lines that somebody will paste."""
    called = Path(sys.argv[0])
    if called.name != "finegrain":
        return f"{shlex.quote(sys.executable)} -m finegrain_command"
    found = shutil.which("finegrain")
    if found and called.exists() and os.path.samefile(found, called):
        return "finegrain"
    return shlex.quote(str(called))
