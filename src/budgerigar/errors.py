"""Every exception that a user can meet.

Each says what happened, why, and what to do about it, in one line. Programming
mistakes stay ordinary Python exceptions; these are for the world outside.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence

COMMANDS = ("budgie", "pip")
"""Commands that a remedy may begin with."""


class BudgieError(Exception):
    """A fault outside the program, told in one line.

    Args:
        what: what happened, naming the file, row, field or name concerned.
        why: the reason, where it is not plain from `what`.
        remedy: what the user can do now.
    """

    exit_code = 2

    def __init__(self, what: str, *, why: str = "", remedy: str = "") -> None:
        self.what, self.why, self.remedy = what, why, remedy
        sentences = [what if not why else f"{what}: {why}", _sentence(remedy)]
        super().__init__(
            _printable(
                " ".join(s if s.endswith("?") else f"{s.rstrip('.')}." for s in sentences if s)
            )
        )


class RecipeError(BudgieError):
    """All faults of one recipe, each with its path.

    Args:
        source: the recipe's name or file.
        faults: one line for each, beginning with the field's path.
    """

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(
            f"recipe {source} has {count}: " + "; ".join(faults),
            remedy="budgie recipes schema shows every field",
        )


class BudgetError(BudgieError):
    """More trainable parameters than the budget allows, or a count that does not hold."""


class SelectorError(BudgieError):
    """An adapter selector that matches nothing, or touches what it must not."""


class DataError(BudgieError):
    """Texts or labels that cannot be used as they are."""


class RefusedPickle(DataError):
    """A pickle that asks for more than texts and numbers need; nothing of it ran."""


class ModelError(BudgieError):
    """A checkpoint or tokenizer that cannot be found, reached or used."""


class RunError(BudgieError):
    """A run folder that cannot be written, read or resumed."""


class AdapterError(BudgieError):
    """An adapter folder that does not load, or does not predict what it should."""


class TrainingStopped(BudgieError):
    """Training ended early because its numbers are no longer finite."""


class OutOfMemory(BudgieError):
    """The machine or its GPU has less memory than was asked for."""


class Interrupted(BudgieError):
    """The user stopped the run; it can be resumed."""

    exit_code = 130


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch on the CPU or torch on a GPU had no memory left."""
    # By name: torch is not imported for this.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))
    )


@contextlib.contextmanager
def told(as_fault: Callable[[str], BudgieError]) -> Iterator[None]:
    """Tells whatever a library raises over a file in one line.

    What a file holds decides what a library falls over, so that no list of exceptions is whole.

    Args:
        as_fault: makes the fault out of the library's own words.
    """
    try:
        yield
    except BudgieError:
        raise
    except BaseException as error:
        # A panic of a library in Rust is no Exception.
        is_fault = isinstance(error, Exception) or type(error).__name__ == "PanicException"
        if is_out_of_memory(error) or not is_fault:
            raise
        kind, words = type(error).__name__, " ".join(str(error).split())[:200]
        # A missing key's words are the key alone.
        raise as_fault(
            f"{kind}: {words}" if isinstance(error, LookupError) else words or kind
        ) from error


def _sentence(remedy: str) -> str:
    """A remedy that begins as a sentence does, unless a command or a name stands first."""
    first, _, _ = remedy.partition(" ")
    is_word = first.rstrip(",:;").isalpha() and first not in COMMANDS
    return remedy[:1].upper() + remedy[1:] if is_word else remedy


def _printable(text: str) -> str:
    """One line, in which no name out of a file can steer a terminal."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in " ".join(text.split())
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` for the nearest known name, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f", did you mean {matches[0]!r}?" if matches else ""
