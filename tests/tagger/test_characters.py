"""Characters and pairs as numbers, and what of them is in a saved model."""

import keras
import numpy as np
import pytest

from finegrain.tagger.characters import PADDING, UNKNOWN, CharacterFeatures
from finegrain_reader.kinds import DIGIT, EDGE, HAN, LOWER, MARK, UPPER

ODD = {
    "emoji": "a👩‍👩‍👧b",
    "combining": "e\u0301a\u0308",
    "astral": "𝔘𠮷\U0010ffff",
    "nul": "a\x00\x00b",
    "blank": " \u3000\n",
}


def layer_of_ab(**options):
    """Known: characters a=2, b=3; pairs (edge, a)=2, ab=3, (b, edge)=4, ba=5."""
    return CharacterFeatures("ba", ["ab", "\x00a", "b\x00", "ba"], **options)


def kind(left, right):
    """How a layer writes a kind of pairs."""
    return chr(left) + chr(right)


def layer_of_kinds(**options):
    """Known: a=2; pairs (edge, a)=2, (lower, edge)=3, (lower, lower)=4, (Han, lower)=5."""
    kinds = [kind(LOWER, EDGE), kind(LOWER, LOWER), kind(HAN, LOWER)]
    return CharacterFeatures("a", ["\x00a", *kinds], **options)


def as_model(layer):
    """A model of nothing but `layer`."""
    inputs = keras.Input((None, 3), dtype="int32")
    return keras.Model(inputs, layer(inputs))


def outputs(layer, encoded, **options):
    """What `layer` makes of encoded characters, as an array."""
    return keras.ops.convert_to_numpy(layer(encoded, **options))


def test_encode_by_hand():
    """Each character comes with the pair it ends and the pair it begins, edges included."""
    assert layer_of_ab().encode(["abba"], 4)[0].tolist() == [
        [2, 2, 3],  # a: (edge, a), ab
        [3, 3, UNKNOWN],  # b: ab, bb
        [3, UNKNOWN, 5],  # b: bb, ba
        [2, 5, UNKNOWN],  # a: ba, (a, edge)
    ]


def test_an_unknown_character_between_known_ones():
    """An unknown character and both its pairs are unknown; its neighbours are not."""
    assert layer_of_ab().encode(["axb"], 3)[0].tolist() == [
        [2, 2, UNKNOWN],
        [UNKNOWN, UNKNOWN, UNKNOWN],
        [3, UNKNOWN, 4],
    ]


def test_a_new_pair_is_read_as_its_kind():
    """It has the number of its kind if that is known; a pair that is known has its own."""
    assert layer_of_kinds().encode(["ax一b"], 5)[0].tolist() == [
        [2, 2, 4],  # a: (edge, a), ax
        [UNKNOWN, 4, UNKNOWN],  # x: ax, x一
        [UNKNOWN, UNKNOWN, 5],  # 一: x一, 一b
        [UNKNOWN, 5, 3],  # b: 一b, (b, edge)
        [PADDING] * 3,
    ]


def test_a_script_of_which_nothing_is_known_is_read_as_small_letters():
    """Hangul between Han is, but not where its own kind is known."""
    assert layer_of_kinds().encode(["一한국"], 3)[0, :, 1:].tolist() == [[1, 5], [5, 4], [4, 3]]
    layer = CharacterFeatures.of([["一", "한국", "민국"], ["a", "bc"]], min_count=1)
    known = [layer.encode([text], 2)[0, 0, 2] for text in ("국한", "ac")]
    assert len({*known, UNKNOWN}) == 3


def test_kinds_of_full_width():
    """Letters and digits of full width are of the kinds of those of ASCII, signs are not."""
    layer = CharacterFeatures.of([["Ａ1", "ａ２", ".", "b3", "B4", "!"]], min_count=1)
    for full, half in ("Ｘ９", "X9"), ("ｙ９", "y9"), ("９Ｘ", "9X"):
        np.testing.assert_array_equal(layer.encode([full], 2), layer.encode([half], 2))
        assert layer.encode([half], 2)[0, 0, 2] > UNKNOWN
    assert {kind(UPPER, DIGIT), kind(LOWER, DIGIT), kind(DIGIT, MARK)} <= set(layer.pairs)


def test_padding_stands_behind_each_text():
    """Rows are as long as asked for, 0 behind the text's end, and as each text alone."""
    layer = layer_of_ab()
    encoded = layer.encode(["ab", "", "bab"], 5)
    assert encoded.shape == (3, 5, 3)
    assert encoded.dtype == np.int32
    for row, text in zip(encoded, ["ab", "", "bab"], strict=True):
        np.testing.assert_array_equal(row[len(text) :], PADDING)
        np.testing.assert_array_equal(row[: len(text)], layer.encode([text], len(text))[0])
    assert (encoded[0, :2] != PADDING).all()


def test_a_single_character_has_an_edge_on_either_side():
    """A text of one character is both first and last."""
    layer = CharacterFeatures("a", ["\x00a", "a\x00"])
    assert layer.encode(["a"], 1)[0].tolist() == [[2, 2, 3]]


def test_a_layer_that_knows_nothing():
    """Without any known character or pair everything is unknown."""
    assert CharacterFeatures("", []).encode(["ab"], 3)[0].tolist() == [
        [1, 1, 1],
        [1, 1, 1],
        [0] * 3,
    ]


@pytest.mark.parametrize(
    ("min_count", "characters", "pairs"),
    [
        (
            1,
            "abc",
            {"\x00a", "ab", "ba", "b\x00", "\x00c", "c\x00", "a\x00"}
            | {kind(EDGE, LOWER), kind(LOWER, LOWER), kind(LOWER, EDGE)},
        ),
        (2, "ab", {"\x00a", "ab", kind(EDGE, LOWER), kind(LOWER, LOWER), kind(LOWER, EDGE)}),
        (3, "a", {kind(LOWER, EDGE)}),
        (4, "", set()),
    ],
)
def test_min_count(min_count, characters, pairs):
    """What occurs `min_count` times is known, over the words of a sentence put together."""
    # ab|a and ab and c: a 3 times, b twice, c once; (edge, a) twice, ab twice, the others once.
    # A kind counts its different pairs: those with the edge behind them are a, b and c.
    layer = CharacterFeatures.of([["ab", "a"], ["ab"], ["c"]], min_count=min_count)
    assert layer.characters == characters
    assert set(layer.pairs) == pairs
    assert layer.words == {"ab", "a", "c"}


def test_mask_and_shape():
    """The mask is true at characters, known or not, and the width is that of three vectors."""
    layer = layer_of_ab(character_dim=5, pair_dim=3)
    encoded = layer.encode(["ax", "a"], 3)
    assert outputs(layer, encoded).shape == (2, 3, 5 + 2 * 3)
    assert layer.compute_output_shape((2, 3, 3)) == (2, 3, 11)
    mask = keras.ops.convert_to_numpy(layer.compute_mask(encoded))
    assert mask.tolist() == [[True, True, False], [True, False, False]]


def test_vectors_are_rows_of_the_tables():
    """A character's vector is its row of each table, left and right pair in this order."""
    layer = layer_of_ab(character_dim=4, pair_dim=2)
    encoded = layer.encode(["abx"], 3)
    vectors = outputs(layer, encoded)[0]
    tables = [
        keras.ops.convert_to_numpy(table)
        for table in (layer.character_table, layer.left_table, layer.right_table)
    ]
    for vector, numbers in zip(vectors, encoded[0], strict=True):
        expected = [table[number] for table, number in zip(tables, numbers, strict=True)]
        np.testing.assert_array_equal(vector, np.concatenate(expected))


def test_pairs_are_forgotten_in_training_only():
    """Where all are forgotten training sees every pair as unknown and each character as it is."""
    layer = layer_of_ab(character_dim=4, pair_dim=2, pair_counts=[1, 2, 3, 4], forgetting=1e9)
    known = layer.encode(["abab"], 4)
    forgotten = known.copy()
    forgotten[:, :, 1:] = UNKNOWN
    seen = outputs(layer, known)
    assert not np.allclose(seen, outputs(layer, forgotten))
    np.testing.assert_array_equal(outputs(layer, known, training=True), outputs(layer, forgotten))
    np.testing.assert_array_equal(outputs(layer, known, training=False), seen)


@pytest.mark.parametrize("options", [{"pair_counts": [1, 1, 1, 1], "forgetting": 0.0}, {}])
def test_no_pair_is_forgotten(options):
    """At `forgetting=0`, or where no counts are known, training sees every pair."""
    layer = layer_of_ab(character_dim=4, pair_dim=2, **options)
    known = layer.encode(["abba"] * 20, 4)
    np.testing.assert_array_equal(outputs(layer, known, training=True), outputs(layer, known))


def test_pairs_are_forgotten_by_their_count():
    """A pair of count n is forgotten in a share forgetting / (forgetting + n) of its places."""
    # By pair: (edge, a) 1, ab 3, (b, edge) 9, ba 100; in this order they are 2, 3, 4, 5.
    pairs = ["ab", "\x00a", "b\x00", "ba"]
    layer = CharacterFeatures(
        "ab", pairs, character_dim=1, pair_dim=1, pair_counts=[3, 1, 9, 100], forgetting=2.0
    )
    known = np.full((4, 3000, 3), 2, "int32")
    known[:, :, 1:] = np.arange(2, 6)[:, None, None]
    changed = outputs(layer, known, training=True) != outputs(layer, known)
    assert not changed[:, :, 0].any()
    expected = [2 / 3, 2 / 5, 2 / 11, 2 / 102]
    np.testing.assert_allclose(changed[:, :, 1].mean(axis=1), expected, atol=0.04)
    np.testing.assert_allclose(changed[:, :, 2].mean(axis=1), expected, atol=0.04)
    both = (changed[:, :, 1] & changed[:, :, 2]).mean(axis=1)
    np.testing.assert_allclose(both, np.square(expected), atol=0.04)


def test_pairs_are_forgotten_to_their_kind_and_kinds_in_turn():
    """Of a forgotten pair the kind remains, unless it is forgotten, too, by its own count."""
    layer = CharacterFeatures(
        "ab",
        ["ab", "\x00a", kind(LOWER, LOWER)],
        character_dim=1,
        pair_dim=1,
        pair_counts=[1, 1, 3],
    )
    edged, known, kinds = layer.encode(["ab"], 2)[0, 0, 1], *layer.encode(["ab", "bb"], 2)[:, 0, 2]
    places = np.full((3, 4000, 3), 2, "int32")
    places[:, :, 1:] = np.array([edged, known, kinds])[:, None, None]
    outputs(layer, places)
    rows = np.arange(5.0)[:, None]  # a vector is the number of its row
    layer.left_table.assign(rows)
    layer.right_table.assign(rows)
    seen = outputs(layer, places, training=True)[:, :, 1:].astype(int)
    expected = {
        0: {edged: 1 / 2, UNKNOWN: 1 / 2},  # its kind is not known
        1: {known: 1 / 2, kinds: 3 / 8, UNKNOWN: 1 / 8},
        2: {kinds: 3 / 4, UNKNOWN: 1 / 4},
    }
    for case, shares in expected.items():
        for side in range(2):
            found, counts = np.unique(seen[case, :, side], return_counts=True)
            assert set(found.tolist()) == {int(number) for number in shares}
            for number, count in zip(found.tolist(), counts / 4000, strict=True):
                np.testing.assert_allclose(count, shares[number], atol=0.04)


def test_counts_are_those_of_the_corpus():
    """`of` counts each known pair over all sentences, edges included; a kind's different pairs."""
    layer = CharacterFeatures.of([["ab", "a"], ["ab"], ["ab"]], min_count=2)
    assert dict(zip(layer.pairs, layer.pair_counts, strict=True)) == {
        "\x00a": 3,
        "ab": 3,
        "b\x00": 2,
        kind(LOWER, LOWER): 2,
        kind(LOWER, EDGE): 2,
    }


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_text_can_be_known(text):
    """Any code point can be learned and is found again, alone and in pairs."""
    layer = CharacterFeatures.of([[text]], min_count=1)
    encoded = layer.encode([text], len(text))[0]
    assert (encoded > UNKNOWN).all()
    known = sorted(set(text))
    assert [layer.characters[number - 2] for number in encoded[:, 0]] == list(text)
    assert len(set(encoded[:, 0].tolist())) == len(known)


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_text_is_unknown_where_it_was_not_learned(text):
    """Any code point can stand in a text, known or not."""
    encoded = layer_of_ab().encode([text], len(text) + 1)[0]
    expected = [{"a": 2, "b": 3}.get(character, UNKNOWN) for character in text]
    assert encoded[:, 0].tolist() == [*expected, PADDING]


@pytest.mark.full
@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_saved_model_needs_no_vocabulary_beside_it(text, tmp_path):
    """A loaded layer knows the same characters, pairs and words, and gives the same vectors."""
    words = [text, "ab"]
    layer = CharacterFeatures.of(
        [words], min_count=1, character_dim=3, pair_dim=2, forgetting=0.1, name="characters"
    )
    model = as_model(layer)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.get_layer("characters")
    assert again.words == set(words)
    assert (again.characters, again.pairs) == (layer.characters, layer.pairs)
    assert again.get_config() == layer.get_config()
    assert (again.forgetting, again.pair_counts) == (0.1, layer.pair_counts)
    encoded = layer.encode([text + "abx"], len(text) + 3)
    np.testing.assert_array_equal(again.encode([text + "abx"], len(text) + 3), encoded)
    np.testing.assert_array_equal(outputs(again, encoded), outputs(layer, encoded))


def test_lone_surrogates(tmp_path):
    """They are never known, and in no text or corpus do they do any harm."""
    text = "a\ud83db\ude00a"
    layer = CharacterFeatures.of([[text, "\udfff"]] * 2, name="characters")
    encoded = layer.encode([text], 6)[0]
    surrogates = np.array([0xD800 <= ord(character) < 0xE000 for character in text])
    assert (encoded[:5, 0][surrogates] == UNKNOWN).all()
    assert (encoded[:5, 0][~surrogates] > UNKNOWN).all()
    as_model(layer).save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras").get_layer("characters")
    assert again.get_config() == layer.get_config()
    assert again.words == {text, "\udfff"}
    np.testing.assert_array_equal(again.encode([text], 6)[0], encoded)


def test_config_round_trip():
    """A layer made from the config has the same config; the words are not in it."""
    layer = layer_of_ab(words=["ab"], character_dim=7, pair_dim=5, name="mine")
    again = CharacterFeatures.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.name, again.character_dim, again.pair_dim) == ("mine", 7, 5)
    assert again.words == frozenset()
