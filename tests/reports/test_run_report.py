"""A run's report: equal results give equal bytes, and nothing in a text becomes markup."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from budgerigar.errors import RunError
from budgerigar.reports.page import shortened
from budgerigar.reports.run import write_run_report
from budgerigar.results import headline
from recorded import (
    CLASSES,
    HOSTILE,
    Page,
    finding,
    hostile_results,
    keys_of,
    results_of_a_run,
    shift_of_texts,
)


def written(results: dict[str, Any], folder: Path) -> str:
    write_run_report(results, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_equal_results_give_equal_bytes(tmp_path):
    results = results_of_a_run()
    before = copy.deepcopy(results)
    first = written(results, tmp_path)
    assert results == before
    assert written(results_of_a_run(), tmp_path) == first


def test_the_page_shows_the_numbers_of_the_results(tmp_path):
    results = results_of_a_run()
    text = Page(written(results, tmp_path)).text.replace("\N{NO-BREAK SPACE}", " ")
    for name in ("test", "validation"):
        scores = results[name]
        assert f"{100 * scores['accuracy']:.2f} %" in text
        low, high = (100 * scores["interval"][end] for end in ("low", "high"))
        assert f"({scores['correct']}; 95 % Wilson interval {low:.2f} % to {high:.2f} %)" in text
        for figure in ("macro_f1", "loss", "calibration_error"):
            assert f"{scores[figure]:.4f}" in text
        for one, row in zip(scores["classes"], scores["confusion"], strict=True):
            place = CLASSES.index(one["name"])
            predicted = sum(each[place] for each in scores["confusion"])
            assert (
                f"{one['name']} {one['precision']:.4f} {row[place]} of {predicted} "
                f"{one['recall']:.4f} {row[place]} of {one['texts']} {one['f1']:.4f} {one['texts']}"
            ) in text
            assert f"{one['name']} {' '.join(map(str, row))} {sum(row)}" in text
        for error in scores["confident_errors"]:
            assert error["text"] in text
            assert (
                f"labelled {error['label']} , predicted {error['predicted']} with probability "
                f"{error['probability']:.4f} (row {error['row']})"
            ) in text
    for record in results["epochs"]:
        assert f"{record['training_loss']:.4f} {record['validation_loss']:.4f}" in text
    for group in results["plan"]["groups"]:
        assert f"{group['matrix']} {group['rank'] or '–'} {group['parameters']:,}" in text
    for line in (*results["notes"], "173,956 of the budget's 999,999", "826,043 are left"):
        assert line in text
    assert "epoch 4 of 5 was chosen as the best" in text
    for line in ("2.4e-07", results["model"]["sha256"], "torch 2.13.0", "277.0", "total 308.2"):
        assert line in text


def test_the_page_is_the_runs_own_and_the_fixture_has_a_runs_keys(tiny_run, tmp_path):
    own = (tiny_run.folder / "report.html").read_text(encoding="utf-8")
    assert written(tiny_run.results, tmp_path) == own
    real, made = tiny_run.results, results_of_a_run()
    assert made.keys() == real.keys()
    for name in ("plan", "epochs", "training", "parameters", "verification", "model", "seconds"):
        assert keys_of(made[name]) == keys_of(real[name]), name
    assert keys_of(made["data"]["test"]) == keys_of(real["data"]["test"])
    assert keys_of(made["test"]).keys() == keys_of(real["test"]).keys()
    assert keys_of(made["test"]["classes"]) == keys_of(real["test"]["classes"])
    assert made["hardware"].keys() <= real["hardware"].keys()
    assert made["versions"].keys() <= real["versions"].keys()
    assert made["recipe"]["optimizer"].keys() <= real["recipe"]["optimizer"].keys()


def test_the_page_needs_nothing_from_outside(tmp_path):
    for results in (results_of_a_run(), hostile_results()):
        page = Page(written(results, tmp_path))
        for tag, attributes in page.elements:
            assert tag not in ("script", "link", "img", "iframe", "object", "image")
            for name, value in attributes.items():
                assert not name.startswith("on"), (tag, name)
                if name in ("src", "href", "xlink:href", "srcset", "action"):
                    assert str(value).startswith("#"), (tag, value)
                if name == "style":
                    assert not re.search(r"url\((?!#)", str(value))
        style = (tmp_path / "report.html").read_text().split("</style>")[0]
        assert "@import" not in style
        assert "url(" not in style


def test_hostile_texts_stay_texts(tmp_path):
    calm, hostile = Page(written(results_of_a_run(), tmp_path)), hostile_results()
    page = Page(written(hostile, tmp_path))
    for tag in ("b", "i", "u", "td", "style", "table", "main"):
        assert page.count(tag) == calm.count(tag), tag
    assert "<script>alert(1)</script>" in page.text
    assert "{{ r.seed }} {% raw %} &amp; \" ' <!--" in page.text
    assert "x" * 299 + "…" in page.text
    assert "x" * 300 not in page.text
    assert "c" * 81 not in page.text


def test_long_texts_end_at_a_word():
    assert shortened("word " * 100) == " ".join(["word"] * 59) + "…"
    assert shortened("a" * 300) == "a" * 300
    assert shortened("a" * 301) == "a" * 299 + "…"
    assert shortened("a " + "b" * 400) == "a " + "b" * 297 + "…"


def test_without_a_test_set_validation_leads(tmp_path):
    results = {**results_of_a_run(), "test": None}
    del results["data"]["test"]
    text = Page(written(results, tmp_path)).text
    assert "Results on the test texts" not in text
    assert "of the 200 validation texts were classified correctly" in text
    assert "there was no test set" in text


def test_the_last_epoch_was_not_chosen(tmp_path):
    results = results_of_a_run()
    assert "on which the best epoch was chosen" in headline(results)[0]
    results["training"] |= {"keep": "last", "kept_epoch": len(results["epochs"])}
    text = Page(written(results, tmp_path)).text
    assert "chosen as the best" not in text
    assert "chosen" not in "".join(headline(results))
    assert f"{len(results['epochs'])} (kept)" in text
    results["test"] = None
    del results["data"]["test"]
    text = Page(written(results, tmp_path)).text
    assert "The adapter is that of the last epoch, 5, whatever its accuracy" in text
    assert "flatters" not in text


def test_without_unlabelled_texts_notes_or_errors(tmp_path):
    results = {**results_of_a_run(), "unlabelled": None, "notes": []}
    del results["data"]["unlabelled"]
    results["test"]["confident_errors"] = []
    results["test"]["correct"] = results["test"]["texts"]
    text = Page(written(results, tmp_path)).text
    assert "unlabelled" not in text
    assert "To keep in mind" not in text
    assert "None: all 400 predictions are right." in text


def test_findings_are_told_the_worst_of_them_on_top(tmp_path):
    results = results_of_a_run()
    page = Page(
        written({**results, "findings": [finding(), {**finding(), "examples": []}]}, tmp_path)
    )
    assert "error: 2 of 400 test texts stand in the training rows" in page.text.split("Plan")[0]
    told = page.text.split("What was found in the texts")[1].split("Most confident errors")[0]
    assert told.count("error , test texts: 2 of 400") == 2
    assert "show memory, not skill." in told
    assert "row 7 (same as training row 3021): Parrots counted again" in told
    assert "row 1234: Parrots counted again" in told
    assert "Nothing was found" in Page(written(results, tmp_path)).text
    # Runs of versions that did not look.
    del results["findings"]
    text = Page(written(results, tmp_path)).text
    assert "found in the texts" not in text


def test_texts_of_findings_are_escaped(tmp_path):
    results = results_of_a_run()
    calm = Page(written({**results, "findings": [finding()]}, tmp_path))
    hostile = Page(written({**results, "findings": [finding(" ".join(HOSTILE))]}, tmp_path))
    for tag in ("b", "i", "u", "td", "style", "table", "main"):
        assert hostile.count(tag) == calm.count(tag), tag


def test_unlabelled_texts_have_their_distribution(tmp_path):
    text = Page(written(results_of_a_run(), tmp_path)).text
    assert "How the 8,000 texts of /data/unlabelled.pkl were classified" in text
    assert "World 1,900 23.75 %" in text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_shift_of_unlabelled_texts_is_told(tmp_path):
    results = results_of_a_run()
    calm = Page(written(results, tmp_path))
    results["unlabelled"]["shift"] = shift_of_texts()
    page = Page(written(results, tmp_path))
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert f"{results['unlabelled']['shift']['verdict']}." in text
    assert "those unlike it 15 83.00 % 80.00 % to 95.00 % mean of the methods" in text
    assert "characters 236.500 210.000 236.000 170.250 -1.52" in text
    assert "World 25.00 % 25.00 % 25.00 % 25.00 %" in text
    assert "a strange text row 3, unlike with probability 0.9980" in text
    assert "A part of 9, marked by chip:" in text
    assert page.count("table") == calm.count("table") + 3
    results["unlabelled"]["shift"] = {"test": None, "why": "fewer than 10 texts say nothing"}
    assert (
        "Nothing can be said: fewer than 10 texts say nothing."
        in Page(written(results, tmp_path)).text
    )


def test_texts_of_the_shift_are_escaped(tmp_path):
    results = results_of_a_run()
    shift = shift_of_texts("<b>recipe</b>")
    shift["most_unlike"][0]["text"] = HOSTILE[0]
    shift["clusters"][0]["words"] = ["<i>word"]
    results["unlabelled"]["shift"] = shift
    page = Page(written(results, tmp_path))
    assert page.count("script") == page.count("i") == 0
    assert HOSTILE[0] in page.text


def test_rates_of_lora_plus_are_told(tmp_path):
    results = results_of_a_run()
    assert "B matrices" not in Page(written(results, tmp_path)).text
    results["recipe"]["optimizer"]["lora_plus"] = 16.0
    assert "LoRA's B matrices learn at 16 times it." in Page(written(results, tmp_path)).text


def test_tables_are_captioned_and_identifiers_are_unique(tmp_path):
    page = Page(written(results_of_a_run(), tmp_path))
    assert page.count("h1") == page.count("title") == page.count("main") == 1
    assert page.count("table") == page.count("caption") == 11
    for tag, attributes in page.elements:
        assert tag != "th" or attributes.get("scope") in ("row", "col", "colgroup")
    marks = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(marks) == len(set(marks))
    wanted = [
        str(value).removeprefix("#")
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("href", "xlink:href", "aria-labelledby")
    ]
    assert wanted
    assert set(wanted) <= set(marks)


def test_a_name_that_is_missing_is_an_error_and_writes_nothing(tmp_path):
    from jinja2 import UndefinedError

    results = results_of_a_run()
    del results["model"]["sha256"]
    with pytest.raises(UndefinedError, match="sha256"):
        write_run_report(results, tmp_path / "report.html")
    with pytest.raises(RunError, match="has no curves yet"):
        write_run_report({**results_of_a_run(), "epochs": []}, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
