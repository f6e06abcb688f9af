"""The notebook runs from its first cell to its last, and shows what its words promise."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import CLASSES, ROOT

NOTEBOOK = ROOT / "examples" / "agnews.ipynb"
TEXTS = 40
SHORT = {"epochs": 2, "data.max_rows": 80, "data.max_length": 32, "data.validation": 0.2}


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_kept_without_outputs():
    for cell in read().cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.fixture(scope="module")
def executed(minilm, tmp_path_factory) -> tuple[dict[str, nbformat.NotebookNode], Path]:
    """The notebook's outputs, by a word of the cell's code, and the folder that it ran in.

    The run is shortened with the notebook's own names, in a cell behind its parameters.
    """
    notebook, folder = read(), tmp_path_factory.mktemp("notebook")
    at = [
        number
        for number, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", [])
    ]
    assert len(at) == 1
    few = folder / "few.csv"
    lines = (ROOT / "examples" / "headlines" / "test.csv").read_text(encoding="utf-8").splitlines()
    few.write_text("\n".join(lines[: TEXTS + 1]) + "\n", encoding="utf-8")
    shortened = f"changes = { ({**SHORT, 'data.test': str(few)})!r}\nunlabelled = {str(few)!r}"
    notebook.cells.insert(at[0] + 1, nbformat.v4.new_code_cell(shortened))
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        env={**os.environ, "HF_HUB_OFFLINE": "1", "IPYTHONDIR": str(folder / "ipython")},
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    return {cell.source: cell for cell in cells}, folder


def outputs(executed, word: str) -> list[nbformat.NotebookNode]:
    found = [cell for source, cell in executed[0].items() if word in source]
    assert len(found) == 1, word
    return found[0].outputs


def printed(executed, word: str) -> str:
    return "".join(
        output.text for output in outputs(executed, word) if output.get("name") == "stdout"
    )


def test_the_plan_adds_up(executed):
    said = printed(executed, "budgerigar.plan(")
    found = re.search(r"^([\d,]+) trainable, ([\d,]+) left of the budget$", said, re.M)
    total, left = (int(number.replace(",", "")) for number in found.groups())
    assert total + left == 999_999
    parts = re.findall(r"^(?:adapter|head) .* ([\d,]+)  \S+$", said, re.M)
    assert sum(int(number.replace(",", "")) for number in parts) == total
    fits = printed(executed, "plan.fits()").splitlines()
    assert len(fits) > 2
    assert all(int(line.split()[-1].replace(",", "")) <= 999_999 for line in fits)


def test_training_leaves_the_files_and_draws_the_curves(executed):
    folder = executed[1] / "runs" / "notebook"
    for name in ("results.json", "report.html", "adapter/adapter_model.safetensors", "curves.png"):
        assert (folder / name).is_file(), name
    shown = [output for output in outputs(executed, "run.curves()") if "data" in output]
    assert any("image/png" in output.data for output in shown)


def test_the_numbers_come_with_their_interval(executed):
    said = printed(executed, 'run.results["test"]')
    line = rf"^test accuracy (.+)% of {TEXTS} texts, 95 % interval (.+)% to (.+)%$"
    accuracy, low, high = map(float, re.search(line, said, re.M).groups())
    assert low < accuracy < high
    assert [row.split()[0] for row in said.splitlines()[2:]] == list(CLASSES)
    errors = printed(executed, "confident_errors").splitlines()
    assert 1 <= len(errors) <= 3
    for line in errors:
        label, predicted = re.match(r"(.+?), predicted (.+?) at \d+%: ", line).groups()
        assert {label, predicted} <= set(CLASSES)
        assert label != predicted


def test_it_predicts_and_writes_a_submission(executed):
    lines = printed(executed, "classifier.predict(").splitlines()
    assert len(lines) == 3
    assert {line.split(" (")[0] for line in lines} <= {*CLASSES, "open"}
    said = printed(executed, "run.submission(").splitlines()
    rows = (executed[1] / said[0]).read_text().splitlines()
    assert rows[:4] == said[1:]
    assert [row.split(",")[0] for row in rows] == ["ID", *map(str, range(TEXTS))]
