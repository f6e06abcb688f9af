"""The report: equal results give equal bytes, and nothing in a text becomes markup."""

from __future__ import annotations

import copy
import html
import re
from xml.etree import ElementTree

import pytest

from budgerigar import report
from budgerigar.errors import RunError
from budgerigar.report import Curve


def epochs(count: int) -> list[dict]:
    return [
        {
            "epoch": number,
            "step": 10 * number,
            "training_loss": 1.0 / number,
            "validation_loss": 1.1 / number,
            "validation_accuracy": 0.5 + 0.05 * number,
            "validation_macro_f1": 0.5,
            "best": True,
            "seconds": 1.0,
        }
        for number in range(1, count + 1)
    ]


def test_figures_are_whole_and_the_same_each_time(tmp_path):
    first = report.draw_curves([Curve("one", epochs(3))], tmp_path / "a")
    second = report.draw_curves([Curve("one", epochs(3))], tmp_path / "b")
    assert [path.suffix for path in first] == [".png", ".svg"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    ElementTree.parse(first[1])


@pytest.mark.parametrize("runs", [1, 2, 10])
def test_any_number_of_runs(tmp_path, runs):
    curves = [Curve(f"run {number}", epochs(1 + number)) for number in range(runs)]
    png, _ = report.draw_curves(curves, tmp_path / "curves")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_run_without_epochs_has_no_curves(tmp_path):
    with pytest.raises(RunError, match="run new has no curves yet"):
        report.draw_curves([Curve("new", [])], tmp_path / "curves")
    assert list(tmp_path.iterdir()) == []


def test_the_page_shows_the_numbers_of_the_results(tiny_run, tmp_path):
    results = tiny_run.results
    report.write_report(results, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == (tiny_run.folder / "report.html").read_bytes()
    page = html.unescape(re.sub(r"\s+", " ", (tmp_path / "report.html").read_text()))
    for name in ("test", "validation"):
        scores = results[name]
        assert f"{100 * scores['accuracy']:.2f} %" in page
        assert f"{100 * scores['interval']['low']:.2f} % to" in page
        assert f"{scores['correct']} of {scores['texts']} right" in page
        assert scores["confident_errors"][0]["text"] in page
    for line in results["notes"]:
        assert line in page


def test_the_page_needs_nothing_from_outside(tiny_run):
    page = (tiny_run.folder / "report.html").read_text()
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page)
    assert [link for link in links if not link.startswith("#")] == []
    assert "<script" not in page
    assert "@import" not in page


def test_hostile_texts_stay_texts(tiny_run, tmp_path):
    results = copy.deepcopy(tiny_run.results)
    error = results["test"]["confident_errors"][0]
    error["text"] = "<script>alert(1)</script>" + "x" * 2000
    results["name"] = "<b>name</b>"
    results["notes"] = ['<img src="http://example.invalid/x.png">']
    report.write_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "x" * 300 not in page


def test_without_a_test_set_validation_leads(tiny_run, tmp_path):
    results = {**tiny_run.results, "test": None}
    report.write_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Results on the test texts" not in page
    assert "Results on the validation texts" in page


def test_unlabelled_texts_have_their_distribution(tiny_run, tmp_path):
    results = copy.deepcopy(tiny_run.results)
    results["data"]["unlabelled"] = {"source": "u.csv", "texts": 8, "fingerprint": "f", "cut": 0}
    results["unlabelled"] = {"distribution": {"World": 6, "Sports": 2}}
    report.write_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "8 texts of u.csv" in page
    assert "75.00 %" in page
