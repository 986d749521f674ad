"""Kinds of characters, against what Python's own tables say of each."""

import string
import unicodedata

import numpy as np
import pytest

from finegrain_reader import kinds
from finegrain_reader.kinds import kinds_of, script_as_lower

pytestmark = pytest.mark.one_backend

NAMES = {
    kinds.EDGE: "edge",
    kinds.SIGN: "sign",
    kinds.MARK: "mark",
    kinds.DIGIT: "digit",
    kinds.UPPER: "upper",
    kinds.LOWER: "lower",
    kinds.HAN: "Han",
    kinds.HIRAGANA: "hiragana",
    kinds.KATAKANA: "katakana",
    kinds.LETTER: "letter",
}


def named(text):
    """The names of the kinds of a text's characters."""
    codes = np.array([ord(character) for character in text], "uint64")
    return [NAMES[kind] for kind in kinds_of(codes).tolist()]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("edge", "\0"),
        ("mark", string.punctuation),
        ("digit", string.digits),
        ("upper", string.ascii_uppercase + "ÀÖØÞΑΩАЯ"),
        ("lower", string.ascii_lowercase + "ßöøÿāαωая" + "ế" + "\u0301"),
        ("sign", "·°±，。、（）《》“”…—・😀☎€→"),
        ("Han", "一三鿿㐀々〇𠮷豈"),
        ("hiragana", "ぁあんゔ"),
        ("katakana", "ァカヴーｶﾞㇰ"),
        ("letter", "한ᄀאبกคक"),
    ],
)
def test_examples(name, text):
    """Of each kind some that are surely of it, first and last ones of their block among them."""
    assert named(text) == [name] * len(text)


def test_names_of_unicode():
    """Han and kana are those that are named so; below U+0250 letters have cases."""
    everything = np.arange(1, 0x30000, dtype="uint64")
    found = kinds_of(everything)
    for code, kind in zip(everything.tolist(), found.tolist(), strict=True):
        character = chr(code)
        name = unicodedata.name(character, "")
        if name.startswith(("CJK UNIFIED IDEOGRAPH-", "CJK COMPATIBILITY IDEOGRAPH-")):
            assert kind == kinds.HAN, name
        elif name.startswith("HIRAGANA LETTER") and code < 0x10000:
            assert kind == kinds.HIRAGANA, name
        elif name.startswith("KATAKANA LETTER") and code < 0x10000:
            assert kind == kinds.KATAKANA, name
        elif kind == kinds.HAN:
            assert not name or unicodedata.category(character)[0] in "LN", name
        elif kind == kinds.DIGIT:
            assert character in string.digits
        if code < 0x250 and character.isalpha() and character not in "ªµº":
            assert kind in (kinds.UPPER, kinds.LOWER), name
        elif code < 0x250 and not character.isdecimal():
            assert kind in (kinds.MARK, kinds.SIGN, kinds.UPPER, kinds.LOWER), name


def test_kinds_have_no_kind():
    """The code points that stand for kinds are read as no character."""
    own = np.array(list(NAMES), "uint64")
    assert kinds_of(own).tolist() == [kinds.EDGE] * len(own)
    assert not any(unicodedata.name(chr(kind), "") for kind in NAMES)


def test_scripts_without_capitals_are_taken_for_small_letters():
    """Kana and other letters are; Han, digits, signs, capitals and the edge are what they were."""
    own = np.array(list(NAMES), "uint64")
    changed = {"hiragana", "katakana", "letter"}
    expected = [kinds.LOWER if name in changed else kind for kind, name in NAMES.items()]
    assert script_as_lower(own).tolist() == expected
    assert script_as_lower(own.reshape(2, 5)).shape == (2, 5)
