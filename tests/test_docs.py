"""The documents say what is so: references are up to date, commands parse, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from budgerigar import recipe_text
from budgerigar.cli import app
from conftest import ROOT

DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md"))
    if path.name != "cli.md"
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
LINES_OF_README = 150


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def make_reference() -> dict[Path, str]:
    """What `make reference` would write."""
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs/make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.files()


def shell_lines(path: Path) -> list[str]:
    """The commands in a document's shell fences, continued lines joined."""
    blocks = [block for language, block in FENCE.findall(text_of(path)) if language == "sh"]
    return "".join(blocks).replace("\\\n", " ").splitlines()


def commands(program: str) -> list[tuple[str, list[str]]]:
    """Every command of a program in every document: the document's name, and the arguments."""
    found = []
    for path in DOCUMENTS:
        for line in shell_lines(path):
            # A pipe's last part is the one that may be the program.
            words = shlex.split(line.split(" | ")[-1], comments=True)
            if words and Path(words[0]).name == program:
                found.append((name_of(path), words[1:]))
    return found


def parse(words: list[str]) -> dict[str, Any]:
    """Parses a `budgie` command as the command line does, without doing it.

    Returns:
        The command's parameters, and its name as `command`.

    Raises:
        TyperException: for a command, an option or a value that there is not.
    """
    seen: dict[str, Any] = {}

    def only_parse(command: Any, name: str) -> None:
        for sub_name, sub in getattr(command, "commands", {}).items():
            only_parse(sub, f"{name} {sub_name}".strip())
        if not hasattr(command, "commands"):
            command.callback = lambda **given: seen.update(given, command=name)

    root = get_command(app)
    only_parse(root, "")
    root.main(args=words, prog_name="budgie", standalone_mode=False)
    return seen


@pytest.mark.parametrize("path", make_reference(), ids=name_of)
def test_the_generated_references_are_up_to_date(path):
    assert text_of(path) == make_reference()[path], "make reference writes it anew"


def test_the_parser_of_these_tests_refuses_what_the_command_line_refuses():
    assert parse(["plan", "quickstart", "--fit"])["fit"] is True
    for wrong in (["trian", "quickstart"], ["plan", "quickstart", "--fitt"], ["submit", "adapter"]):
        with pytest.raises(Exception, match=r"No such|Missing") as refused:
            parse(wrong)
        assert type(refused.value).__name__ in ("UsageError", "NoSuchOption", "MissingParameter")


@pytest.mark.parametrize(
    ("document", "words"),
    commands("budgie"),
    ids=[f"{document}: {' '.join(words)}" for document, words in commands("budgie")],
)
def test_every_command_in_the_documents_parses(document, words):
    given = parse(words)
    assert given["command"] or words in (["--version"], ["--help"])
    if given.get("recipe") in recipe_text.shipped():
        # Its recipe with these settings has no faults either.
        recipe_text.read(given["recipe"], given.get("settings") or [])


def test_the_readme_shows_every_command():
    shown = {
        parse(words)["command"] for document, words in commands("budgie") if "README" in document
    }
    assert {"train", "plan", "predict", "submit", "verify", "curves"} <= shown


def test_the_readme_names_the_two_commands_and_make_knows_every_target():
    rules = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.M))
    named = {word for _, words in commands("make") for word in words if "=" not in word}
    assert {"demo", "test"} <= {
        word for document, words in commands("make") if document == "README.md" for word in words
    }
    assert named <= rules


def test_the_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= LINES_OF_README


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_to_files(path):
    for link in LINK.findall(text_of(path)):
        if not re.match(r"[a-z]+:", link):
            target, _, heading = link.partition("#")
            there = path.parent / target if target else path
            assert there.exists(), link
            if heading:
                headings = re.findall(r"^#+ (.+)$", text_of(there), re.M)
                slugs = {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}
                assert heading in slugs, link


def test_the_architecture_names_only_files_that_are_there():
    drawn = FENCE.search(text_of(ROOT / "docs" / "architecture.md")).group(2)
    source = drawn[: drawn.index("tests/")]
    folders: dict[int, str] = {}
    named = []
    for indent, name in re.findall(r"^( *)([\w./]+)", source, re.M):
        parents = "".join(folders[depth] for depth in sorted(folders) if depth < len(indent))
        named.append(ROOT / (parents + name))
        folders = {depth: kept for depth, kept in folders.items() if depth < len(indent)}
        if name.endswith("/"):
            folders[len(indent)] = name
    assert len(named) > 30
    assert [name_of(path) for path in named if not path.exists()] == []
