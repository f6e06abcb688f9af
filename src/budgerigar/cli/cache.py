"""`budgie cache`: list and clear what frozen layers gave for texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from budgerigar import console
from budgerigar.cli.options import AsJson

if TYPE_CHECKING:
    from budgerigar.encoder.prefix import Entry

app = typer.Typer(
    help="List and clear what frozen layers gave for texts.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_cache(as_json: AsJson = False) -> None:
    """List what the cache holds, the most recently used first."""
    from dataclasses import asdict

    from budgerigar.encoder.prefix import PrefixCache, human_size

    cache = PrefixCache()
    entries = cache.entries()
    if as_json:
        console.result_json([asdict(entry) for entry in entries])
        return
    columns = ("base", "layers", "precision", "texts", "tokens", "size", "last used")
    console.table(columns, [_row(entry) for entry in entries])
    taken = sum(entry.size for entry in entries)
    count = "1 entry" if len(entries) == 1 else f"{len(entries)} entries"
    console.note(f"{cache.folder}: {count}, {human_size(taken)} of {human_size(cache.limit)}")


@app.command("clear")
def clear_cache(as_json: AsJson = False) -> None:
    """Remove what the cache holds, but for what a running process uses."""
    from budgerigar.encoder.prefix import PrefixCache, human_size

    cache = PrefixCache()
    freed, in_use = cache.clear()
    if as_json:
        console.result_json({"freed": freed, "in_use": in_use})
        return
    console.result(f"{cache.folder}: freed {human_size(freed)}")
    if in_use:
        what = "1 entry is in use and stays" if in_use == 1 else f"{in_use} are in use and stay"
        console.note(what)


def _row(entry: Entry) -> tuple[str, ...]:
    """What an entry is of, its size and when it was last used; `?` where its record is lost."""
    from datetime import datetime

    from budgerigar.encoder.prefix import human_size

    shown = []
    for name in ("base", "layers", "precision", "texts", "tokens"):
        value = entry.about.get(name, "?")
        shown.append(f"{value:,}" if isinstance(value, int) else str(value)[:12])
    size = human_size(entry.size)
    if not entry.whole:
        size += f" of {human_size(entry.claimed)}, unfinished"
    used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
    return *shown, size, used
