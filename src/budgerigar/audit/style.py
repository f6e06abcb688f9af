"""What can be counted in a text without any model: its length, marks, capitals, small words.

Shape letters: B texts, S surface measures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

WORD = re.compile(r"\w+")


def _count(pattern: str) -> Callable[[str], float]:
    found = re.compile(pattern)
    return lambda text: float(len(found.findall(text)))


def _share(pattern: str) -> Callable[[str], float]:
    """Of characters that belong to a match's beginning: matches for each 100 characters."""
    count = _count(pattern)
    return lambda text: 100.0 * count(text) / max(1, len(text))


def _word_length(text: str) -> float:
    words = WORD.findall(text)
    return sum(map(len, words)) / max(1, len(words))


MEASURES: dict[str, Callable[[str], float]] = {
    "characters (log)": lambda text: float(np.log1p(len(text))),
    "words (log)": lambda text: float(np.log1p(len(WORD.findall(text)))),
    "letters of a word": _word_length,
    "capitals": _share(r"[A-Z]"),
    "capitalised words": _share(r"\b[A-Z]\w"),
    "words all in capitals": _count(r"\b[A-Z]{2,}\b"),
    "digits": _share(r"\d"),
    "full stops": _share(r"\."),
    "commas": _share(r","),
    "hyphens and dashes": _share(r"[-–—]"),
    "double quotes": _count(r'["“”]|&quot;|quot;'),
    "apostrophes": _count(r"['’]"),
    "brackets": _count(r"[()\[\]]"),
    "colons and semicolons": _count(r"[;:]"),
    "question and exclamation marks": _count(r"[!?]"),
    "markup and escapes": _count(r"[&#\\<>]"),
    "characters beyond ASCII": _count(r"[^\x00-\x7f]"),
    "dots in a row": _count(r"\.\.\."),
    "small words": _share(r"\b(?:the|a|an|of|in|to|and|for|on|with)\b"),
    "words in -ing": _share(r"ing\b"),
    "words in -ed": _share(r"ed\b"),
    "words in -ly": _share(r"ly\b"),
    "ends with a full stop": lambda text: float(text.rstrip().endswith(".")),
    "begins with a capital": lambda text: float(text.lstrip()[:1].isupper()),
}
"""Shares are for each 100 characters."""


def measures(texts: Sequence[str]) -> np.ndarray:
    """Surface measures `[B, S]`, float32, in the order of `MEASURES`."""
    return np.array(
        [[measure(text) for measure in MEASURES.values()] for text in texts], np.float32
    ).reshape(len(texts), len(MEASURES))
