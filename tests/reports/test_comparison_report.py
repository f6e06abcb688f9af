"""A comparison's report: the words and numbers of its JSON, and nothing else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from budgerigar.reports.comparison import curves_of, write_comparison_report
from recorded import CLASSES, Page, comparison_of_recipes, hostile_comparison, shift_of_texts


def written(content: dict[str, Any], folder: Path) -> str:
    write_comparison_report(content, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def text_of(content: dict[str, Any], folder: Path) -> str:
    return Page(written(content, folder)).text.replace("\N{NO-BREAK SPACE}", " ")


def test_equal_content_gives_equal_bytes(tmp_path):
    content = comparison_of_recipes()
    before = copy.deepcopy(content)
    first = written(content, tmp_path)
    assert content == before
    assert written(comparison_of_recipes(), tmp_path) == first


def test_the_verdict_stands_first_in_its_own_words(tmp_path):
    content = comparison_of_recipes(("one", "two", "three"))
    text = text_of(content, tmp_path)
    words = [pair["words"] for pair in content["verdict"]["pairs"]]
    assert len(words) == 3
    places = [text.index(f"{one}.") for one in words]
    assert places == sorted(places)
    assert places[-1] < text.index("Recipes and seeds")
    assert "Holm's procedure" in text
    assert "Holm's procedure" not in text_of(comparison_of_recipes(), tmp_path)


def test_every_recipe_and_seed_is_in_the_tables(tmp_path):
    content = comparison_of_recipes()
    text = text_of(content, tmp_path)
    for one, record in zip(content["verdict"]["recipes"], content["recipes"], strict=True):
        low, high = (100 * one["interval"][end] for end in ("low", "high"))
        worst = record["runs"][one["worst_seed"]]["seed"]
        assert (
            f"{one['name']} 3 {100 * one['mean']:.2f} % {low:.2f} % to {high:.2f} % "
            f"{100 * one['standard_deviation']:.2f} {100 * one['worst']:.2f} % seed {worst}"
        ) in text
        for run in record["runs"]:
            test, best = run["test"], run["training"]["kept_epoch"]
            shown = f"{100 * test['accuracy']:.2f} % {test['correct']} of 200"
            assert f"{record['name']} {run['seed']} {shown}" in text
            assert f"{best} of 5 {test['loss']:.4f} {test['macro_f1']:.4f}" in text
    for pair in content["verdict"]["pairs"]:
        assert f"{pair['points']:+.2f} {pair['interval']['low']:+.2f} to" in text


def test_epochs_have_mean_and_ends_over_seeds(tmp_path):
    content = comparison_of_recipes()
    text = text_of(content, tmp_path)
    for record in content["recipes"]:
        for place in range(5):
            losses = [run["epochs"][place]["validation_loss"] for run in record["runs"]]
            shown = f"{sum(losses) / 3:.4f} {min(losses):.4f} to {max(losses):.4f}"
            assert shown in text
    lines = [curve.points("training_loss") for curve in curves_of(content)]
    assert [len(points) for points in lines] == [5, 5]
    assert all(point.runs == 3 and point.low <= point.mean <= point.high for point in lines[0])


def test_confusions_differ_by_mean_counts(tmp_path):
    content = comparison_of_recipes()
    text = text_of(content, tmp_path)
    best, other = sorted(
        content["recipes"],
        key=lambda record: -sum(run["test"]["correct"] for run in record["runs"]),
    )
    assert f"Confusion of {other['name']} less that of {best['name']}" in text
    for place, name in enumerate(CLASSES):
        mean = {
            record["name"]: [
                sum(run["test"]["confusion"][place][column] for run in record["runs"]) / 3
                for column in range(4)
            ]
            for record in (best, other)
        }
        row = [own - its for own, its in zip(mean[other["name"]], mean[best["name"]], strict=True)]
        shown = " ".join(f"{cell:+.1f}" if cell else "0" for cell in row)
        assert f"{name} {shown}" in text


def test_disagreements_count_the_seeds_of_each_class(tmp_path):
    content = comparison_of_recipes()
    text = text_of(content, tmp_path).replace(" ,", ",")
    for one in content["disagreements"]:
        assert one["text"] in text
        for name, said in one["said"].items():
            shown = ", ".join(f"{label} {count}" for label, count in said.items())
            assert f"{name} : {shown}" in text
    assert "Nowhere" in text_of({**content, "disagreements": []}, tmp_path)


def test_what_a_cohort_did_once_is_divided_among_its_runs(tmp_path):
    content = comparison_of_recipes()
    text = text_of(content, tmp_path)
    seconds = content["recipes"][0]["runs"][0]["seconds"]
    shared = sum(taken for name, taken in seconds.items() if name != "evaluation") / 2
    own = sum(run["seconds"]["evaluation"] for run in content["recipes"][0]["runs"])
    assert f"173,956 149,380 3 {shared:.1f} {own:.1f} {(shared + own) / 3:.1f} 50.00 %" in text
    assert "6 runs that trained together (engine, bfloat16)" in text
    for record in content["recipes"]:
        for run in record["runs"]:
            run["training"]["cohort"] = 1
    assert "that trained together" not in text_of(content, tmp_path)


def test_only_fields_that_differ_are_listed(tmp_path):
    text = text_of(comparison_of_recipes(), tmp_path)
    assert "optimizer.name rmsprop adamw" in text
    assert "optimizer.rate" not in text
    assert "data.max_rows" not in text


def test_failed_runs_and_recipes_are_told(tmp_path):
    content = comparison_of_recipes(("one", "two", "three"))
    for run in content["recipes"][1]["runs"]:
        for name in list(run):
            if name not in ("folder", "seed"):
                del run[name]
        run["failure"] = "its loss is not finite."
    content["recipes"][1]["reliability"] = []
    content["verdict"]["recipes"] = [
        one for one in content["verdict"]["recipes"] if one["name"] != "two"
    ]
    content["verdict"]["pairs"] = [
        pair for pair in content["verdict"]["pairs"] if "two" not in (pair["first"], pair["second"])
    ]
    page = Page(written(content, tmp_path))
    assert page.text.count("two 1 failed") == page.text.count("two 3 failed") == 1
    assert [curve.name for curve in curves_of(content)] == ["one", "three"]


@pytest.mark.parametrize(("names", "seeds"), [(("alone",), 3), (("one", "two"), 1)])
def test_one_recipe_and_one_seed(tmp_path, names, seeds):
    content = comparison_of_recipes(names, seeds)
    text = text_of(content, tmp_path)
    assert ("Every pair" in text) == (len(names) > 1)
    assert ("McNemar's exact test" in text) == (seeds == 1)
    assert ("lowest to the highest" in text) == (seeds > 1)


def test_without_a_test_set_validation_is_scored(tmp_path):
    content = comparison_of_recipes()
    content["scored_on"] = "validation"
    for record in content["recipes"]:
        for run in record["runs"]:
            run["validation"], run["test"] = run["test"], None
            del run["data"]["test"]
    text = text_of(content, tmp_path)
    assert "test texts" not in text
    assert "test accuracy" not in text
    assert "all scored on the same 200 validation texts" in text


@pytest.mark.parametrize(
    ("keeps", "words"),
    [
        (("best", "best"), "The best epoch of each run was chosen on the validation texts"),
        (("last", "last"), "Each run kept its last epoch"),
        (("last", "best"), "Runs kept the best epoch on the validation texts, or their last"),
    ],
)
def test_which_epochs_were_kept(keeps, words, tmp_path):
    content = comparison_of_recipes()
    for record, keep in zip(content["recipes"], keeps, strict=True):
        record["recipe"]["keep"] = keep
    assert text_of(content, tmp_path).count(words) == 2


def test_hostile_texts_stay_texts_and_nothing_is_asked_for(tmp_path):
    hostile = hostile_comparison()
    page = Page(written(hostile, tmp_path))
    assert {"script", "img", "u", "i"}.isdisjoint(tag for tag, _ in page.elements)
    assert "<script>alert(1)</script>" in page.text
    assert "<script>alert(2)</script>" in page.text
    assert "{{ c.name }}<td>" in page.text
    assert "c" * 81 not in page.text
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "image")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert str(value).startswith("#"), (tag, value)


def test_figures_have_names_and_tables_and_identifiers_are_unique(tmp_path):
    page = Page(written(comparison_of_recipes(), tmp_path))
    figures = [
        a for tag, a in page.elements if tag == "div" and a.get("class", "").startswith("dr")
    ]
    assert len(figures) == 3
    assert all(one["role"] == "img" and "table" in one["aria-label"] for one in figures)
    assert page.count("table") == page.count("caption") == 15
    marks = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(marks) == len(set(marks))
    wanted = {
        str(value).removeprefix("#")
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("href", "xlink:href", "aria-labelledby")
    }
    assert wanted <= set(marks)


def test_the_shift_is_told_once_with_every_run_s_expected_accuracy(tmp_path):
    content = comparison_of_recipes()
    for record in content["recipes"]:
        for run in record["runs"]:
            shift = shift_of_texts(record["name"])
            shift["expected_accuracy"]["all"]["accuracy"] += run["seed"] / 1000
            run["unlabelled"]["shift"] = shift
    text = text_of(content, tmp_path)
    assert text.count("two populations: 25 texts") == 1
    for record in content["recipes"]:
        for run in record["runs"]:
            assert f"{record['name']} {run['seed']} 92.50 % 88.{run['seed']}0 % 85.00 %" in text
