"""KeepBest: the best epoch's weights come back, and training stops when it is time."""

import contextlib
import signal

import keras
import numpy as np
import pytest

from finegrain.tagger.tasks import Segmentation
from finegrain.tagger.training import Interruption, KeepBest, TrainingDivergedError
from finegrain.tagging.scores import score

GOLD = [["ab", "cd"], ["ef"]]
# Segmentations of "abcd" and "ef", from the worst to the best.
NONE = [["a", "b", "c", "d"], ["e", "f"]]
SOME = [["abcd"], ["ef"]]
MOST = [["ab", "c", "d"], ["ef"]]
ALL = GOLD


def weights_of(model):
    """All weights, as arrays of their own."""
    return [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights]


class Training:
    """A model that moves in every epoch, and a score for each epoch out of a script."""

    def __init__(self, script, *, patience=10, on_better=lambda: None):
        inputs = keras.Input((1,))
        self.model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
        self.model.compile("sgd", "mse")
        self.script = list(script)
        self.after = []
        self.logs = []
        self.keep_best = KeepBest(
            lambda: score(GOLD, self.script[len(self.after)]),
            Segmentation().figures,
            patience=patience,
            on_better=on_better,
        )

    def note(self, epoch, logs):
        """Notes the weights after the epoch and what stands in the logs."""
        self.after.append(weights_of(self.model))
        self.logs.append(dict(logs))

    def fit(self, *callbacks):
        """Trains for as many epochs as the script has lines."""
        noting = keras.callbacks.LambdaCallback(on_epoch_end=self.note)
        x = np.arange(8.0)[:, None] / 8
        callbacks = [self.keep_best, noting, *callbacks]
        self.model.fit(x, 5 * x + 3, epochs=len(self.script), callbacks=callbacks, verbose=0)


def assert_same(weights, others):
    """Equal to the last bit."""
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("script", "best"),
    [
        ([NONE, SOME, ALL, MOST, NONE], 2),
        ([MOST, MOST, SOME], 0),  # as good as the best so far is not better
        ([NONE, NONE], 0),  # an F1 of 0 is better than none at all
        ([SOME, MOST, ALL], 2),
    ],
)
def test_restores_the_best_epoch(script, best):
    """After training `restore` brings back the weights of the first epoch of the highest F1."""
    training = Training(script)
    training.fit()
    assert len(training.after) == len(script)
    for one, other in zip(training.after, training.after[1:], strict=False):
        assert not np.array_equal(one[0], other[0])
    assert training.keep_best.restore() is True
    assert_same(weights_of(training.model), training.after[best])
    assert training.keep_best.best_epoch == best
    assert training.keep_best.best == score(GOLD, script[best])


@pytest.mark.parametrize(
    ("patience", "epochs"),
    [(1, 3), (2, 6), (3, 8)],
)
def test_patience(patience, epochs):
    """Training stops after as many epochs in a row that are no better than the best."""
    script = [NONE, MOST, SOME, ALL, SOME, MOST, ALL, SOME, NONE, NONE]
    # Best: 0, 1, 1, 3, 3, 3, 3, …; epochs since: 0, 0, 1, 0, 1, 2, 3, …
    script = script if patience < 3 else [NONE, *script]
    training = Training(script, patience=patience)
    training.fit()
    assert len(training.after) == epochs


@pytest.mark.parametrize("what", ["loss", "weight"])
def test_an_epoch_that_is_not_finite(what):
    """It ends the training with an error, is not the best, and the best before it comes back."""
    training = Training([SOME, ALL, ALL])

    def spoil(epoch, logs):
        if epoch == 1 and what == "loss":
            logs["loss"] = float("inf")
        elif epoch == 1:
            training.model.weights[0].assign([[float("nan")]])

    first = keras.callbacks.LambdaCallback(on_epoch_end=spoil)
    noting = keras.callbacks.LambdaCallback(on_epoch_end=training.note)
    x = np.ones((8, 1))
    with pytest.raises(TrainingDivergedError, match=f"diverged in epoch 2: .*{what}"):
        training.model.fit(x, x, epochs=3, callbacks=[first, training.keep_best, noting], verbose=0)
    assert training.keep_best.best == score(GOLD, SOME)
    assert training.keep_best.restore() is True
    assert_same(weights_of(training.model), training.after[0])


def test_logs():
    """Precision, recall and F1 stand in the logs, for the callbacks that follow."""
    training = Training([SOME, ALL])
    training.fit()
    # SOME: of the two words predicted one is right, of the three true ones one is found.
    assert training.logs[0]["val_precision"] == 0.5
    assert training.logs[0]["val_recall"] == pytest.approx(1 / 3)
    assert training.logs[0]["val_f1"] == pytest.approx(0.4)
    assert training.logs[1]["val_f1"] == 1.0


def test_on_better_is_called_when_there_is_a_better_epoch():
    """It is called after each epoch that is the best so far, with this epoch's weights in place."""
    saved = []
    script = [NONE, MOST, MOST, SOME, ALL, NONE]
    training = Training(script, on_better=lambda: saved.append(weights_of(training.model)))
    training.fit()
    for weights, epoch in zip(saved, [0, 1, 4], strict=True):
        assert_same(weights, training.after[epoch])


def test_nothing_to_restore():
    """Before the first epoch has ended there is nothing to bring back, and no best score."""
    training = Training([ALL])
    before = weights_of(training.model)
    assert training.keep_best.restore() is False
    assert training.keep_best.best is None
    assert_same(weights_of(training.model), before)


def test_restore_after_an_interruption():
    """Training that ends by Ctrl-C in the middle of an epoch leaves the best weights to restore."""

    def interrupt(batch, logs):
        if len(training.after) == 3:
            raise KeyboardInterrupt

    training = Training([NONE, ALL, SOME, NONE])
    interrupting = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)
    with pytest.raises(KeyboardInterrupt):
        training.fit(interrupting)
    assert training.keep_best.restore()
    assert_same(weights_of(training.model), training.after[1])


def test_ctrl_c_that_is_swallowed_ends_training_with_the_step():
    """A KeyboardInterrupt that nobody sees is raised again after the step, and not before."""
    steps = []

    def swallow(batch, logs):
        steps.append(batch)
        if len(steps) == 2:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    swallowing = keras.callbacks.LambdaCallback(on_train_batch_begin=swallow)
    x = np.ones((8, 1))
    with Interruption() as interruption, pytest.raises(KeyboardInterrupt):
        model.fit(x, x, batch_size=2, callbacks=[swallowing, interruption], verbose=0)
    assert steps == [0, 1]


def test_without_ctrl_c_nothing_is_interrupted():
    """Training goes on to its end, and afterwards Ctrl-C does what it did before."""
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        assert signal.getsignal(signal.SIGINT) != before
        for batch in range(3):
            interruption.on_train_batch_end(batch)
    assert signal.getsignal(signal.SIGINT) == before
