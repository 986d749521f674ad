"""Kinds of characters, such as digits: what is known of a character that was never seen."""

from __future__ import annotations

import numpy as np

# Each kind is written as a code point that Unicode keeps out of texts.
EDGE, SIGN, MARK, DIGIT, UPPER, LOWER, HAN, HIRAGANA, KATAKANA, LETTER = range(0xFDD0, 0xFDDA)

# The first code point of each stretch of one kind. Marks are the punctuation of ASCII, which
# stands inside numbers, names and addresses, signs all other punctuation and symbols, letters
# those of scripts without capitals.
_STRETCHES = {
    0x0000: EDGE,
    0x0001: MARK,
    0x0030: DIGIT,
    0x003A: MARK,
    0x0041: UPPER,
    0x005B: MARK,
    0x0061: LOWER,
    0x007B: MARK,
    0x0080: SIGN,
    0x00C0: UPPER,
    0x00DF: LOWER,
    0x0391: UPPER,  # Greek
    0x03AC: LOWER,
    0x0400: UPPER,  # Cyrillic
    0x0430: LOWER,
    0x0590: LETTER,
    0x1E00: LOWER,
    0x2000: SIGN,
    0x2C00: LETTER,
    0x2E00: SIGN,
    0x3005: HAN,
    0x3008: SIGN,
    0x3041: HIRAGANA,
    0x30A0: KATAKANA,
    0x30FB: SIGN,
    0x30FC: KATAKANA,
    0x3100: LETTER,
    0x3190: SIGN,
    0x31F0: KATAKANA,
    0x3200: SIGN,
    0x3400: HAN,
    0x4DC0: SIGN,
    0x4E00: HAN,
    0xA000: LETTER,
    0xE000: SIGN,
    0xF900: HAN,
    0xFB00: LETTER,
    0xFDD0: EDGE,  # the kinds themselves: a kind has none
    0xFDF0: LETTER,
    0xFE00: SIGN,
    0xFF66: KATAKANA,
    0xFFA0: LETTER,
    0xFFE0: SIGN,
    0x10000: LETTER,
    0x1F000: SIGN,
    0x20000: HAN,
    0x40000: SIGN,
}
_STARTS = np.array(list(_STRETCHES), "uint64")
_KINDS = np.array(list(_STRETCHES.values()), "uint64")


def kinds_of(code_points: np.ndarray) -> np.ndarray:
    """Return the kind of each code point.

    Args:
        code_points: (any shape) uint64; 0 stands for the edge of a text.

    Returns:
        Their kinds, uint64 of the same shape: `EDGE`, `DIGIT` and so on.
    """
    return _KINDS[np.searchsorted(_STARTS, code_points, side="right") - 1]


def script_as_lower(kinds: np.ndarray) -> np.ndarray:
    """Return kinds with the scripts that have no capitals, but Han, taken for small letters."""
    return np.where(kinds > HAN, np.uint64(LOWER), kinds)
