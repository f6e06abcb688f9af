"""`budgie recipes`: list, show, copy and check recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from budgerigar import console
from budgerigar.cli.options import AsJson, RecipeName, Settings
from budgerigar.errors import RunError

app = typer.Typer(
    help="List, show, copy and check recipes.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """List the recipes that ship."""
    from budgerigar import recipe_text

    found = {name: recipe_text.summary(text) for name, text in recipe_text.shipped().items()}
    if as_json:
        console.result_json(found)
    else:
        console.table(("recipe", "what it is"), list(found.items()))


@app.command("show")
def show_recipe(
    recipe: RecipeName,
    settings: Settings = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Show every field, defaults included.")
    ] = False,
) -> None:
    """Print a recipe: as it is written, or with every field."""
    from budgerigar import recipe_text

    if resolved or settings:
        console.result(recipe_text.to_yaml(recipe_text.read(recipe, settings or [])).rstrip())
    else:
        console.result(recipe_text.text_of(recipe).rstrip())


@app.command("copy")
def copy_recipe(
    recipe: RecipeName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML file to write.")],
) -> None:
    """Copy a recipe into a file of your own, named as the file is, comments included."""
    from budgerigar import recipe_text
    from budgerigar.files import write_text

    if file.exists():
        raise RunError(f"{file} exists already", remedy="choose another name")
    write_text(file, recipe_text.renamed(recipe_text.text_of(recipe), file.stem))
    console.result(str(file))


@app.command("check")
def check_recipe(recipe: RecipeName, settings: Settings = None) -> None:
    """Check a recipe's fields; budgie plan checks it against the model too."""
    from budgerigar import recipe_text

    recipe_text.read(recipe, settings or [])
    console.result(f"{recipe}: no faults")


@app.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from budgerigar import recipe_text

    console.result(recipe_text.json_schema())
