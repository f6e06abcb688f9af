"""Ways to make texts unlike others, for the benchmarks of shift and of expected accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Distortion = Callable[[str, np.random.Generator], str]


def typos(share: float) -> Distortion:
    """Swaps a share of neighbouring letters."""

    def change(text: str, draw: np.random.Generator) -> str:
        letters = list(text)
        for place in np.flatnonzero(draw.random(max(0, len(letters) - 1)) < share).tolist():
            if letters[place].isalpha() and letters[place + 1].isalpha():
                letters[place], letters[place + 1] = letters[place + 1], letters[place]
        return "".join(letters)

    return change


def shortened(words: int) -> Distortion:
    """Keeps the first words."""
    return lambda text, _: " ".join(text.split()[:words])


def thinned(share: float) -> Distortion:
    """Leaves out a share of the words."""
    return lambda text, draw: " ".join(w for w in text.split() if draw.random() >= share)


def lowered(text: str, draw: np.random.Generator) -> str:
    """In small letters."""
    return text.lower()


def distorted(texts: Sequence[str], change: Distortion, draw: np.random.Generator) -> list[str]:
    """Every text changed; one that would be empty stays."""
    return [change(text, draw) or text for text in texts]
