"""Recipes as text: YAML in and out, overrides, the recipes that ship, faults with their paths."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from budgerigar.errors import RecipeError, nearest
from budgerigar.recipe import KINDS, LayerRate, Recipe, Space


class _Yaml12(yaml.SafeLoader):
    """Safe YAML without version 1.1's surprises: `no` is a name and `5e-4` a number."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|false|False)$"), list("tTfF")
)
_Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile("^(?:null|Null|~|)$"), ["n", "N", "~", ""]
)
_Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile("^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")
)
_Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def shipped() -> dict[str, str]:
    """The recipes that ship: name -> YAML text, comments included."""
    folder = resources.files("budgerigar") / "recipes"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in files}


def read(
    source: str | Path, settings: Sequence[str] = (), overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """Reads a recipe and applies overrides to it.

    Args:
        source: a shipped recipe's name, or a YAML file.
        settings: `optimizer.rate=1e-4`, as the command line gives them; values are YAML.
        overrides: the same from Python: dotted names or nested mappings to values.

    Raises:
        RecipeError: with every fault, each with its path.
    """
    tree = _parse(text_of(source), str(source))
    faults = []
    for setting in settings:
        path, equals, value = setting.partition("=")
        try:
            if not equals:
                raise ValueError("is not NAME=VALUE")
            _set(tree, path.strip(), yaml.load(value, _Yaml12))
        except (ValueError, IndexError, yaml.YAMLError) as error:
            faults.append(f"--set {setting}: {str(error).splitlines()[0]}")
    for path, value in (overrides or {}).items():
        _set(tree, path, value)
    if faults:
        raise RecipeError(str(source), faults)
    return from_tree(tree, str(source))


def resolve(recipe: str | Path | Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """A recipe, a shipped one's name or a YAML file, with overrides as in `read`."""
    if isinstance(recipe, Recipe):
        return change(recipe, overrides)
    return read(recipe, overrides=overrides)


def change(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """A recipe with other values for some fields; overrides as in `read`."""
    # Without defaults: those of one optimizer are unknown to another.
    tree = recipe.model_dump(mode="json", exclude_unset=True)
    for path, value in overrides.items():
        _set(tree, path, value)
    return from_tree(tree, recipe.name)


def from_tree(tree: Any, source: str) -> Recipe:
    """Checks a parsed recipe.

    Raises:
        RecipeError: with every fault, each with its path and, for an unknown name, the nearest.
    """
    if not isinstance(tree, Mapping):
        raise RecipeError(source, ["a recipe is a mapping of fields such as `model:` and `data:`"])
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(source, [_fault(dict(item), tree) for item in error.errors()]) from error


def read_space(path: Path, overrides: Mapping[str, Any]) -> Space:
    """Reads the file of a search, with other values for some of its fields.

    Raises:
        RecipeError: with every fault, each with its path.
    """
    tree = _parse(text_of(path), str(path))
    tree = {"name": path.stem, **tree, **overrides}
    try:
        return Space.model_validate(tree)
    except ValidationError as error:
        faults = [_fault(dict(item), tree, Space) for item in error.errors()]
        raise RecipeError(str(path), faults) from error


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe, every field included."""
    return yaml.safe_dump(
        recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )


def json_schema() -> str:
    """JSON Schema of a recipe, for editors."""
    return json.dumps(Recipe.model_json_schema(), indent=2)


def text_of(source: str | Path) -> str:
    """A recipe as it is written: a shipped one's YAML, or a file's.

    Raises:
        RecipeError: when there is neither, with the nearest shipped name.
    """
    if str(source) in (known := shipped()):
        return known[str(source)]
    try:
        return Path(source).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        hint = nearest(str(source), known)
        raise RecipeError(
            str(source), [f"no such file and no recipe of that name ({', '.join(known)}){hint}"]
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(str(source), [f"cannot be read: {error}"]) from error


def summary(text: str) -> str:
    """The first sentence of the comment that a recipe begins with."""
    comment = re.match(r"(?:#.*\n)*", text)
    words = " ".join(line.lstrip("# ") for line in comment[0].splitlines()) if comment else ""
    sentence, stop, _ = words.partition(". ")
    return sentence + stop.rstrip()


def renamed(text: str, name: str) -> str:
    """A recipe's text under another name, comments and all else as they are.

    Args:
        text: as `text_of` gives it; without a line `name:` it stays as it is.
        name: what a name may not hold becomes `-`.
    """
    allowed = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")
    if not allowed:
        return text
    if not isinstance(yaml.load(allowed, _Yaml12), str):
        allowed = json.dumps(allowed)
    return re.sub(r"^name:[^#\n]*?(?=\s*(?:#|$))", f"name: {allowed}", text, count=1, flags=re.M)


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        tree = yaml.load(text, _Yaml12)
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(source, ["not YAML: " + " ".join(str(error).split())]) from error
    if not isinstance(tree, dict):
        raise RecipeError(source, ["a recipe is a mapping of fields such as `model:` and `data:`"])
    return tree


def _set(tree: dict[str, Any], path: str, value: Any) -> None:
    """Puts `value` at a path such as `optimizer.layers[0].rate`; a mapping is merged."""
    if not (steps := re.findall(r"[^.\[\]]+", path)):
        raise ValueError("names no field")
    place: Any = tree
    for step in steps[:-1]:
        if isinstance(place, list):
            place = place[int(step)]
            continue
        _spell_out(place, step)
        if not isinstance(place.get(step), dict | list):
            place[step] = {}
        place = place[step]
    last = steps[-1]
    if isinstance(value, Mapping) and isinstance(place, dict):
        _spell_out(place, last)
    if isinstance(place, list):
        place[int(last)] = value
    elif isinstance(value, Mapping) and isinstance(place.get(last), dict):
        for name, inner in value.items():
            _set(place[last], str(name), copy.deepcopy(inner))
    else:
        place[last] = value


def _spell_out(place: dict[str, Any], field: str) -> None:
    """Makes a mapping of a name that stands for its kind, so that fields can join it."""
    if field in KINDS and isinstance(place.get(field), str):
        place[field] = {"name": place[field]}


def _fault(item: dict[str, Any], tree: Mapping[str, Any], root: Any = Recipe) -> str:
    inner, last = item["loc"][:-1], item["loc"][-1:]
    # A field that nobody knows may be called like a branch of a union.
    may_be_tags = inner if item["type"] == "extra_forbidden" else (*inner, *last)
    steps = [step for step in may_be_tags if not _is_union_tag(step, item["loc"])]
    steps += last if item["type"] == "extra_forbidden" else ()
    path = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps).lstrip(".")
    if item["type"] == "extra_forbidden":
        known = _fields_at(steps[:-1], tree, root)
        return f"{path}: unknown field{nearest(str(steps[-1]), known)}"
    if item["type"] == "union_tag_invalid":
        name, known = str(item["ctx"]["tag"]), list(KINDS[path])
        return f"{path}.name: {name!r} is none of {', '.join(known)}{nearest(name, known)}"
    if path in KINDS and item["type"] == "model_attributes_type":
        return f"{path}: name one of {', '.join(KINDS[path])} (given: {item['input']!r})"
    message = item["msg"].removeprefix("Value error, ")
    given = item["input"]
    if item["type"] == "missing":
        return f"{path}: is missing"
    shown = "" if isinstance(given, Mapping | list) else f" (given: {given!r})"
    return f"{path}: {message[0].lower()}{message[1:]}{shown}" if path else message


def _is_union_tag(step: Any, loc: tuple[Any, ...]) -> bool:
    """Pydantic puts the branch of a union into the path; users never wrote it."""
    if not isinstance(step, str):
        return False
    position = loc.index(step)
    if position == 1 and loc[0] in KINDS:
        return step in KINDS[loc[0]]
    return "[" in step or step in ("str", "float", "constrained-str")


def _fields_at(steps: Iterable[Any], tree: Mapping[str, Any], root: Any) -> list[str]:
    """The field names of the part at a path; none where names are free."""
    part = root
    for step in steps:
        if step in KINDS:
            kinds = KINDS[step]
            part = kinds[str(tree[step].get("name", next(iter(kinds))))]
        elif isinstance(step, int):
            part = LayerRate
        elif step not in getattr(part, "model_fields", ()):
            return []
        else:
            part = part.model_fields[step].annotation
    return list(getattr(part, "model_fields", ()))
