"""Templates -> one HTML file that needs neither network nor script."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgerigar.files import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

LONGEST_TEXT = 300
"""Characters of a text that a report shows."""


def write_page(template: str, path: Path, **content: Any) -> None:
    """Writes a page; every text in its content is escaped.

    Args:
        template: its name.
        path: the file.
        **content: what the template names.

    Raises:
        UndefinedError: when the template names what is not there.
        RunError: when the file cannot be written.
    """
    page = _environment().get_template(template).render(**content)
    # A text may hold half of a surrogate pair, which no encoding can write.
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("budgerigar", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.2f}\N{NO-BREAK SPACE}%"
    environment.filters["count"] = _count
    environment.filters["figure"] = lambda number: f"{number:.4f}"
    environment.filters["points"] = lambda number: f"{number:+.2f}"
    environment.filters["shortened"] = shortened
    # Macros of several files number a page's tables together.
    numbers = itertools.count(1)
    environment.globals["next_number"] = lambda: next(numbers)
    return environment


def _count(number: float) -> str:
    """A count, or a mean of counts."""
    return f"{number:,}" if isinstance(number, int) else f"{number:,.1f}"


def shortened(text: str, length: int = LONGEST_TEXT) -> str:
    """The text, or its beginning up to the end of a word, where there is one near, and `…`."""
    if len(text) <= length:
        return text
    start = text[: length - 1]
    words = start.rsplit(None, 1)[0]
    return (words if len(words) > 0.9 * length else start).rstrip() + "…"
