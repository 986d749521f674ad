"""Batches of few shapes in which every sentence appears once an epoch."""

from collections import Counter
from itertools import combinations, pairwise

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finegrain.tagger.batches import Batches, bucket_lengths


def padded_positions(lengths, buckets):
    """Positions of all rows when each has the shortest bucket that takes it."""
    return sum(min(bucket for bucket in buckets if bucket >= length) for length in lengths)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12),
    st.integers(1, 4),
    st.sampled_from([1, 3, 8]),
)
def test_bucket_lengths_are_the_best(lengths, buckets, multiple):
    """No other choice of at most as many multiples pads less; the longest sentence has room."""
    lengths = [min(length, 9 * multiple) for length in lengths]
    chosen = bucket_lengths(lengths, buckets, multiple)
    assert 1 <= len(chosen) <= buckets
    assert chosen == sorted(set(chosen))
    assert all(length % multiple == 0 for length in chosen)
    assert chosen[-1] - multiple < max(lengths) <= chosen[-1]
    multiples = range(multiple, chosen[-1], multiple)
    least = min(
        padded_positions(lengths, [*others, chosen[-1]])
        for count in range(buckets)
        for others in combinations(multiples, count)
    )
    assert padded_positions(lengths, chosen) == least


def test_bucket_lengths_by_hand():
    """Many short sentences and a long one: a bucket for each kind."""
    assert bucket_lengths([3] * 50 + [8] * 50 + [97], buckets=2) == [8, 104]
    assert bucket_lengths([3, 97], buckets=1) == [104]
    assert bucket_lengths([5]) == [8]


LENGTHS = [3, 5, 8, 2, 30, 28, 31, 60, 57, 64, 7, 1, 26, 59, 6, 4, 27, 55, 62, 25, 29, 58]


class Numbers:
    """Features of sentences whose words are numbers: three times the number."""

    words = frozenset()
    lengths = (100,)

    def sizes(self, sentence):
        return np.ones(len(sentence), "int64")

    def encode(self, sentences, length):
        encoded = np.zeros((len(sentences), length, 3), "int32")
        for row, sentence in zip(encoded, sentences, strict=True):
            row[: len(sentence)] = np.array(sentence, "int32")[:, None]
        return encoded


def sentences_of(lengths):
    """Sentence i is the word i + 1, again and again."""
    return [[number + 1] * n for number, n in enumerate(lengths)]


def test_no_longer_than_the_model_takes():
    """The longest sentences are padded to its limit, where that is no multiple of 8."""
    features = Numbers()
    features.lengths = (30,)
    tags = [np.zeros(n, "int32") for n in (3, 29, 30)]
    source = Batches(features, sentences_of([3, 29, 30]), tags, batch_size=4, seed=0)
    assert {x.shape[1] for x, _, _ in epoch(source)} == {8, 30}


def batches(lengths=LENGTHS, batch_size=4, seed=0):
    """Sentence i has the number i + 1 as each of its features, and tags that tell its length."""
    tags = [np.full(n, n % 4, "int32") for n in lengths]
    return Batches(Numbers(), sentences_of(lengths), tags, batch_size=batch_size, seed=seed)


def epoch(source):
    """All batches of the epoch as they stand."""
    return [source[number] for number in range(len(source))]


def order(source):
    """Numbers of the sentences in the order of the epoch."""
    return [int(row[0, 0]) - 1 for x, _, weights in epoch(source) for row in x[weights > 0]]


@given(st.lists(st.integers(1, 70), min_size=1, max_size=30), st.integers(1, 9), st.integers(0, 9))
def test_every_sentence_once_an_epoch(lengths, batch_size, seed):
    """Each sentence is in one batch, whole, with weight 1; what fills up has 0 and tags −1."""
    source = batches(lengths, batch_size, seed)
    for _ in range(2):
        seen, rows_of, empty = Counter(), {}, 0
        for x, y, weights in epoch(source):
            rows = rows_of.setdefault(x.shape[1], len(x))
            assert rows <= batch_size
            assert x.shape == (rows, x.shape[1], 3)
            assert y.shape == x.shape[:2]
            assert weights.shape == (rows,)
            empty += int((weights == 0).sum())
            assert set(weights) <= {0.0, 1.0}
            assert weights.any()
            for row, tags, weight in zip(x, y, weights, strict=True):
                if not weight:
                    assert (row == 0).all()
                    assert (tags == -1).all()
                    continue
                number = int(row[0, 0]) - 1
                length = lengths[number]
                seen[number] += 1
                assert (row[:length] == number + 1).all()
                assert (row[length:] == 0).all()
                assert (tags[:length] == length % 4).all()
                assert (tags[length:] == -1).all()
        assert seen == Counter(range(len(lengths)))
        # Fewer empty rows than batches, whatever the size of a batch.
        assert empty <= len(source) - len(rows_of)
        source.on_epoch_end()


def test_few_shapes():
    """An epoch has at most as many shapes as there are buckets, and all of them are full."""
    source = batches()
    shapes = {x.shape for x, _, _ in epoch(source)}
    assert {shape[1] for shape in shapes} == set(source.lengths)
    assert {shape[0] for shape in shapes} == {4}
    assert len(shapes) == len(bucket_lengths(LENGTHS))


@pytest.mark.parametrize("batch_size", [100, 20_000, 10**11, 10**30])
def test_a_batch_is_no_larger_than_its_sentences(batch_size):
    """Where all sentences of a length fit into one batch, they are the batch."""
    source = batches(batch_size=batch_size)
    assert len(source) == len(source.lengths)
    assert sum(len(x) for x, _, _ in epoch(source)) == len(LENGTHS)


def test_same_seed_and_epoch_same_order():
    """The order depends on the seed and the epoch's number alone, not on what went before."""
    first, second = batches(seed=5), batches(seed=5)
    np.random.default_rng().random()
    keras.utils.set_random_seed(99)
    assert order(first) == order(second)
    for source in (first, second):
        source.on_epoch_end()
        np.random.random(7)  # noqa: NPY002 (the global state has no part in it)
    assert order(first) == order(second)


def test_other_epoch_or_seed_other_order():
    """No two epochs or seeds go through the sentences, or put them together, alike."""
    source = batches(seed=1)
    orders = [order(batches(seed=2))]
    groups = []
    for _ in range(3):
        orders.append(order(source))
        groups.append({frozenset(x[:, 0, 0].tolist()) for x, _, _ in epoch(source)})
        source.on_epoch_end()
    assert len(set(map(tuple, orders))) == 4
    assert groups[0] != groups[1] != groups[2]


def test_lengths_are_mixed():
    """Batches of one length do not all come before those of the next."""
    source = batches(LENGTHS * 6)
    for _ in range(3):
        lengths = [x.shape[1] for x, _, _ in epoch(source)]
        assert len(set(lengths)) > 1
        changes = sum(a != b for a, b in pairwise(lengths))
        assert changes > len(set(lengths))
        source.on_epoch_end()


class Recorded(Batches):
    """Notes which sentences each batch gave, by the epoch's number."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.noted = {}

    def __getitem__(self, batch):
        x, y, weights = super().__getitem__(batch)
        self.noted.setdefault(self.epoch, {})[batch] = x[weights > 0, 0, 0].tolist()
        return x, y, weights


def test_fit_goes_through_every_sentence_in_every_epoch():
    """Keras's `fit` takes all batches of each epoch and asks for others after it."""
    tags = [np.zeros(n, "int32") for n in LENGTHS]
    source = Recorded(Numbers(), sentences_of(LENGTHS), tags, batch_size=4, seed=0)
    x = keras.Input((None, 3))
    model = keras.Model(x, keras.layers.Dense(2)(x))
    model.compile("sgd", lambda y_true, y_pred: keras.ops.mean(y_pred, axis=(1, 2)))
    model.fit(source, epochs=3, verbose=0)
    # Keras may look at a batch or two before the first epoch, and shuffles batches once more.
    epochs = [noted for noted in source.noted.values() if len(noted) == len(source)]
    assert len(epochs) == 3
    for noted in epochs:
        sentences = [sentence for batch in noted.values() for sentence in batch]
        assert sorted(sentences) == list(range(1, len(LENGTHS) + 1))
    together = [{frozenset(batch) for batch in noted.values()} for noted in epochs]
    assert together[0] != together[1] != together[2]


@pytest.mark.parametrize("count", [1, 4, 5])
def test_number_of_batches(count):
    """As few batches of a length as take its sentences."""
    assert len(batches([8] * count, batch_size=4)) == -(-count // 4)


# Training over several lengths. On TensorFlow, Keras fixes for all batches what the first ones have
# in common, so that the order of the lengths matters.

SHORT, MIDDLE, LONG = [3, 5, 8, 2], [30, 28, 31, 26], [60, 57, 64, 59]
MIXTURES = {
    "one batch": [3],
    "one length": SHORT,
    "two batches": [3, 60],
    "few long": [*SHORT * 3, 60],
    "few short": [3, *LONG * 3],
    "three lengths": [*SHORT, *MIDDLE, *LONG],
    "two rare": [*SHORT * 3, 30, 60],
}


@given(st.lists(st.integers(1, 70), min_size=1, max_size=30), st.integers(1, 9), st.integers(0, 9))
def test_the_first_two_batches_differ_in_length(lengths, batch_size, seed):
    """What they have in common holds for all batches, in each epoch."""
    source = batches(lengths, batch_size, seed)
    for _ in range(3):
        first = {source[number][0].shape[1] for number in range(min(2, len(source)))}
        assert len(first) == min(2, len(source.lengths))
        source.on_epoch_end()


@pytest.fixture(scope="module")
def model():
    """A model for texts of any length, of which nothing is compiled for each length."""
    x = keras.Input((None, 3))
    model = keras.Model(x, keras.layers.Dense(2)(x))
    model.compile(
        keras.optimizers.SGD(0.0),
        lambda y_true, y_pred: keras.ops.mean(y_pred, axis=(1, 2)),
        run_eagerly=keras.backend.backend() == "jax",
    )
    return model


@pytest.mark.selected(
    "one batch-0",
    "one length-1",
    "few long-0",
    "few short-1",
    "three lengths-0",
    "three lengths-1",
    "two rare-1",
)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("lengths", MIXTURES.values(), ids=MIXTURES)
def test_fit_with_several_lengths(model, lengths, seed):
    """`fit` takes each order of lengths, in training and validation, in all epochs."""
    training, validation = recorded(lengths, seed), recorded(lengths, seed + 1)
    keras.utils.set_random_seed(seed)  # of the order in which Keras takes the batches
    model.fit(training, epochs=2, validation_data=validation, verbose=0)
    assert_whole_epochs(training, 2)
    assert_whole_epochs(validation, 2)


def test_workers(model):
    """Keras's own arguments are taken: threads that prepare batches give the same ones."""
    source = recorded(MIXTURES["three lengths"], 0, workers=2, max_queue_size=1)
    assert (source.workers, source.max_queue_size) == (2, 1)
    model.fit(source, epochs=1, verbose=0)
    assert_whole_epochs(source, 1)


def assert_whole_epochs(source, epochs):
    """So many epochs, or more, gave each sentence once; Keras looks at some batches beforehand."""
    whole = [noted for noted in source.noted.values() if len(noted) == len(source)]
    assert len(whole) >= epochs
    count = sum(len(x) for x, _ in source.buckets)
    for noted in whole:
        sentences = [sentence for batch in noted.values() for sentence in batch]
        assert sorted(sentences) == list(range(1, count + 1))


def recorded(lengths, seed, **options):
    """Batches that note what was taken from them."""
    tags = [np.zeros(n, "int32") for n in lengths]
    return Recorded(Numbers(), sentences_of(lengths), tags, batch_size=2, seed=seed, **options)
