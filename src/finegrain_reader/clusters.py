"""Characters that a reader takes for one, such as a letter and its accent: no word ends in them."""

from __future__ import annotations

import re
import unicodedata

_JOINER = "\u200d"

# What texts have most of, and what never goes on: a text without anything else has no clusters.
_OTHER = re.compile(
    "[^\x00-\u02ff\u0370-\u0482\u2010-\u205e\u3000-\u3029\u3030-\u3098\u309b-\ua000\uff00-\uffef]"
)


def goes_on(before: str, here: str) -> bool:
    """Return whether two neighbouring characters belong to one cluster by themselves.

    Args:
        before: A character.
        here: The character behind it.

    References:
        Unicode Standard Annex 29, Unicode Text Segmentation, section 3, grapheme clusters,
        https://www.unicode.org/reports/tr29/
    """
    if here < "\u0300":
        return False
    return (
        unicodedata.category(here).startswith("M")  # accents, vowel signs, variation selectors
        or here == _JOINER
        or "\U0001f3fb" <= here <= "\U0001f3ff"  # tones of skin
        or "\U000e0020" <= here <= "\U000e007f"  # tags of flags
        or (before == _JOINER and unicodedata.category(here) == "So")
        or _is_one_syllable(before, here)
    )


def clusters(text: str) -> list[int]:
    """Find the places in a text, but for its ends, at which it may not be cut.

    Args:
        text: Any text.

    Returns:
        The numbers of the characters before which there may be no cut, in order.
    """
    if _OTHER.search(text) is None:
        return []
    flags = 0  # letters of flags in a row: two of them make one
    found = []
    for place, here in enumerate(text):
        is_flag = "\U0001f1e6" <= here <= "\U0001f1ff"
        flags = flags + 1 if is_flag else 0
        if place and ((flags % 2 == 0 and is_flag) or goes_on(text[place - 1], here)):
            found.append(place)
    return found


def _is_one_syllable(before: str, here: str) -> bool:
    """Return whether letters of Hangul are parts of one syllable."""
    if not "\u1100" <= here <= "\ud7fb" or not "\u1100" <= before <= "\ud7fb":
        return False
    first, second = _hangul(before), _hangul(here)
    follows = {"L": ("L", "V", "LV", "LVT"), "V": ("V", "T"), "LV": ("V", "T")}
    return second in follows.get(first, ("T",) if first in ("T", "LVT") else ())


def _hangul(letter: str) -> str:
    """Return which part of a syllable a letter is: L, V or T, or the syllable LV or LVT."""
    if "\uac00" <= letter <= "\ud7a3":
        return "LV" if (ord(letter) - 0xAC00) % 28 == 0 else "LVT"
    if "\u1100" <= letter <= "\u115f" or "\ua960" <= letter <= "\ua97c":
        return "L"
    if "\u1160" <= letter <= "\u11a7" or "\ud7b0" <= letter <= "\ud7c6":
        return "V"
    if "\u11a8" <= letter <= "\u11ff" or "\ud7cb" <= letter <= "\ud7fb":
        return "T"
    return ""
