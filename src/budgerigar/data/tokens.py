"""Texts -> packed tokens with offsets; batches.

Shape letters: B texts, T tokens of all of them, one after another without padding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from budgerigar.console import Progress
from budgerigar.errors import ModelError, told

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 2_000
"""Texts that are tokenized at a time."""

OWN_WORDS = {"gguf_file", "init_inputs", "vocab", "merges", "tokenizer_object"}
"""Fields of a tokenizer's configuration from which transformers opens files wherever they are;
`save_pretrained` writes none of them."""
LISTED_FILES = "fast_tokenizer_files"
"""Files by version of transformers, which it opens wherever they are."""

REMEDY = "put the checkpoint's tokenizer files beside its config.json"


class TextSource(Protocol):
    """What can be tokenized: a sequence that gives its texts in lists."""

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterator[list[str]]: ...


@dataclass(frozen=True)
class PackedTexts:
    """Tokenized texts.

    Attributes:
        ids_T: token ids, int32 `[T]`.
        offsets: int64 `[B + 1]`; text b is `ids_T[offsets[b]:offsets[b + 1]]`.
        cut: how many texts were longer than the limit and lost their end.
    """

    ids_T: np.ndarray
    offsets: np.ndarray
    cut: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, `[B]`."""
        return np.diff(self.offsets)

    def batch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The texts of some rows, packed in the order given: ids int64 `[T]`, offsets `[B + 1]`."""
        lengths_B = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths_B)])
        within_T = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths_B)
        places_T = np.repeat(self.offsets[:-1][rows], lengths_B) + within_T
        return self.ids_T[places_T].astype(np.int64), offsets


def load_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint or adapter folder.

    Args:
        folder: holds the tokenizer's files.
        name: what the user calls it, for the message.

    Raises:
        ModelError: when the folder has none that transformers can read, or its files name others
            outside it.
    """
    from transformers import AutoTokenizer

    _require_own_files(folder, name)
    with told(lambda why: _unreadable(f"{name} has no tokenizer that can be read", why)):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        words = len(tokenizer) - len(tokenizer.all_special_ids)
    # Where the files are missing, transformers makes up a tokenizer that knows no word.
    if words <= 0:
        raise ModelError(
            f"{name} has no tokenizer", why="its vocabulary file is missing", remedy=REMEDY
        )
    return tokenizer


def _require_own_files(folder: Path, name: str) -> None:
    """Refuses a configuration from which transformers would open files outside the folder."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return  # transformers says what is wrong with it.
    if not isinstance(config, dict):
        return
    outside = sorted(field for field in OWN_WORDS & config.keys() if config[field])
    listed = config.get(LISTED_FILES) or []
    if any(not isinstance(one, str) or Path(one).name != one for one in listed):
        outside.append(LISTED_FILES)
    if outside:
        raise ModelError(
            f"the tokenizer of {name} may read files outside its folder",
            why=f"its tokenizer_config.json has {outside[0]}",
            remedy="remove it if the folder is whole without it",
        )


def _unreadable(what: str, why: str) -> ModelError:
    return ModelError(what, why=why, remedy=REMEDY)


def tokenize(
    texts: TextSource,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    label: str,
    vocabulary: int | None = None,
) -> PackedTexts:
    """Tokenizes texts with the tokenizer's special tokens, each cut at `max_length` tokens.

    Args:
        texts: what to tokenize.
        tokenizer: the checkpoint's.
        max_length: longest text in tokens, special ones included.
        label: names the stage in the progress display.
        vocabulary: tokens that the model knows; None does not ask.

    Raises:
        ModelError: when the tokenizer gives a token that the model does not know, or no token.
    """
    pieces: list[np.ndarray] = []
    lengths: list[int] = []
    cut = 0
    with Progress(f"tokenizing {label}", len(texts)) as bar:
        for chunk in texts.batches(CHUNK):
            with told(lambda why: _unreadable(f"the tokenizer cannot split {label}", why)):
                encoded = tokenizer(
                    chunk,
                    truncation=True,
                    max_length=max_length,
                    return_attention_mask=False,
                    return_token_type_ids=False,
                )
                rows: list[list[int]] = encoded["input_ids"]
                cut += _count_cut(encoded, rows, max_length)
                lengths.extend(len(row) for row in rows)
                pieces.append(np.fromiter((i for row in rows for i in row), dtype=np.int32))
            bar.update(len(lengths))
    ids_T = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    if vocabulary is not None:
        _require_known(ids_T, offsets, vocabulary, label)
    return PackedTexts(ids_T, offsets, cut)


def _require_known(ids_T: np.ndarray, offsets: np.ndarray, vocabulary: int, label: str) -> None:
    """Refuses tokens that no embedding has, and texts without any."""
    remedy = "use the tokenizer that the checkpoint was trained with"
    unknown = np.flatnonzero(ids_T >= vocabulary)
    if len(unknown):
        row = int(np.searchsorted(offsets, unknown[0], side="right"))
        raise ModelError(
            f"the tokenizer gives token {ids_T[unknown[0]]} in text {row} of {label}",
            why=f"the model knows {vocabulary} tokens, from 0",
            remedy=remedy,
        )
    empty = np.flatnonzero(np.diff(offsets) == 0)
    if len(empty):
        raise ModelError(
            f"the tokenizer gives no token for text {empty[0] + 1} of {label}",
            why="it adds no special tokens, and the text is empty or of nothing that it knows",
            remedy=remedy,
        )


def _count_cut(encoded: Any, rows: list[list[int]], max_length: int) -> int:
    """Tokenizers with a fast file say what overflowed; of others the length alone tells."""
    if encoded.encodings is not None:
        return sum(bool(encoding.overflowing) for encoding in encoded.encodings)
    return sum(len(row) >= max_length for row in rows)
