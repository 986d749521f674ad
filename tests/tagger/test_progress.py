"""Progress of trainings: bars on a terminal, lines elsewhere."""

import io
import re

import keras
import numpy as np
import pytest
from rich.console import Console

from finegrain.tagger.progress import TrainingProgress

pytestmark = pytest.mark.one_backend


def console(*, terminal):
    """A console that writes into memory."""
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=100, color_system=None, _environ={}
    )


class Score(keras.callbacks.Callback):
    """Puts an F1 into the logs, as the segmenter's training does."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_f1"] = (epoch + 1) / 4


def train(bar, epochs=2, *, before=()):
    """Three steps an epoch under `bar`."""
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="zeros")(inputs))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x = np.full((6, 1), 2.0)
    model.fit(x, x, batch_size=2, epochs=epochs, callbacks=[*before, bar], verbose=0)


def test_without_a_terminal_a_line_an_epoch():
    """Each epoch prints its number and what it brought, and nothing else is printed."""
    out = console(terminal=False)
    with TrainingProgress(out) as progress:
        train(progress.bar("softmax"), 2, before=[Score()])
        train(progress.bar("CRF × 1"), 1)
    assert out.file.getvalue().splitlines() == [
        "softmax: epoch 1, loss 4.0000, F1 0.2500",
        "softmax: epoch 2, loss 4.0000, F1 0.5000",
        "CRF × 1: epoch 1, loss 4.0000",
    ]


def test_a_name_with_brackets():
    """A description is shown as it is."""
    out = console(terminal=False)
    with TrainingProgress(out) as progress:
        train(progress.bar("model[v2].keras"), 1)
    assert out.file.getvalue().startswith("model[v2].keras: epoch 1")


def test_on_a_terminal_bars():
    """A terminal shows a bar for each training, one under another, the last one filled."""
    out = console(terminal=True)
    with TrainingProgress(out) as progress:
        first, second = progress.bar("softmax"), progress.bar("CRF")
        train(first, 2, before=[Score()])
        train(second, 4, before=[Score()])
    written = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.file.getvalue())
    *_, above, below = (line.strip() for line in re.split(r"[\r\n]+", written) if line.strip())
    bar = "━" * 24
    assert re.fullmatch(rf"softmax\s+{bar} epoch 2(/2)? \S+ loss 4.0000, F1 0.5000", above)
    assert re.fullmatch(rf"CRF\s+{bar} epoch 4(/4)? \S+ loss 4.0000, F1 1.0000", below)
    assert "softmax: epoch" not in written


def test_bar_moves_within_an_epoch():
    """A bar stands where training stands, by steps; the epoch is counted from 1."""
    progress = TrainingProgress(console(terminal=True))
    bar = progress.bar("softmax")
    moves = []

    def note(batch, logs):
        (task,) = progress._progress.tasks
        moves.append((round(task.completed, 3), task.total, task.fields["epoch"]))

    train(bar, 2, before=())
    (task,) = progress._progress.tasks
    assert (task.completed, task.total) == (2, 2)
    progress = TrainingProgress(console(terminal=True))
    bar = progress.bar("softmax")
    noting = keras.callbacks.LambdaCallback(on_train_batch_begin=note)
    train(bar, 2, before=[noting])
    assert moves[1:] == [
        (0.333, 2, 1),
        (0.667, 2, 1),
        (1.0, 2, 1),
        (1.333, 2, 2),
        (1.667, 2, 2),
    ]


def test_the_terminal_is_left_as_it_was():
    """The cursor is shown again, also after Ctrl-C in the middle of a training."""

    def interrupt(batch, logs):
        raise KeyboardInterrupt

    out = console(terminal=True)
    stopping = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)
    with pytest.raises(KeyboardInterrupt), TrainingProgress(out) as progress:
        train(progress.bar("softmax"), before=[stopping])
    written = out.file.getvalue()
    assert "\x1b[?25l" in written
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
