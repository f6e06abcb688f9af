"""The report: equal results give equal bytes, and nothing in a text becomes markup."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import image

from budgerigar import report
from budgerigar.errors import RunError
from budgerigar.report import Curve

CLASSES = ("World", "Sports", "Business", "Sci/Tech")
MATRICES = ("query", "value")
WORDS = (
    "shares fell after the final whistle as ministers praised a new chip for Olympic oil".split()
)
HOSTILE = (
    "<script>alert(1)</script>",
    "</td></table></main><style>*{display:none}</style>",
    "x" * 2000,
    "مرحبا بالعالم \N{RIGHT-TO-LEFT OVERRIDE}dlrow" + " كلمة" * 200,
    "{{ r.seed }} {% raw %} &amp; \" ' <!-- \x00 \ud800",
)


def scored(rows: int, seed: int) -> dict[str, Any]:
    """Scores and errors of a classifier that is right in nine texts of ten."""
    from budgerigar import predict, results
    from budgerigar.evaluation import metrics

    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 4, rows)
    logits = draw.normal(0.0, 1.2, (rows, 4))
    logits[np.arange(rows), labels] += 3.6
    texts = [f"{' '.join(draw.choice(WORDS, 24))} {row}" for row in range(rows)]
    return {
        **results.scores_record(metrics.score(logits, labels), CLASSES),
        "confident_errors": results.confident_errors(
            predict.from_logits(CLASSES, logits), labels, texts
        ),
    }


def epochs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Records of `epochs.jsonl` with falling losses."""
    draw = np.random.default_rng(seed)
    records: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        accuracy = round(0.93 - 0.25 / number + float(draw.normal(0, 0.008)), 4)
        records.append(
            {
                "epoch": number,
                "step": 238 * number,
                "training_loss": 0.2 + 0.7 / number + float(draw.normal(0, 0.02)),
                "validation_loss": 0.25 + 0.4 / number + float(draw.normal(0, 0.02)),
                "validation_accuracy": accuracy,
                "validation_macro_f1": accuracy - 0.001,
                "best": all(accuracy > one["validation_accuracy"] for one in records),
                "seconds": 91.25,
            }
        )
    return records


def texts_of(source: str, rows: int, *, labelled: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = {"source": source, "texts": rows, "fingerprint": "7d39d8cb" * 8}
    if labelled:
        found["classes"] = dict.fromkeys(CLASSES, rows // 4)
    return {**found, "cut": rows // 100}


def plan_of_a_run() -> dict[str, Any]:
    groups = [("adapter", layer, matrix, 8, 6144, 3e-4) for layer in (4, 5) for matrix in MATRICES]
    groups += [("head", None, "classifier.dense", None, 147840, 1e-3)]
    groups += [("head", None, "classifier.out_proj", None, 1540, 1e-3)]
    keys = ("part", "layer", "matrix", "rank", "parameters", "rate")
    return {
        "recipe": "agnews-adamw",
        "model": "distilroberta-base",
        "classes": list(CLASSES),
        "max_length": 256,
        "layers": "last:2",
        "path": "engine",
        "trainable": {"total": 173956, "adapter": 24576, "head": 149380, "other": 0},
        "budget": {"max_trainable": 999999, "left": 826043},
        "groups": [dict(zip(keys, group, strict=True)) for group in groups],
        "notes": ["learning rate 1e-05 of layers 0-3 has no effect: nothing is trained there"],
        "fit": [{"targets": ["query", "value"], "head": "full", "rank": 276, "trainable": 997252}],
    }


def results_of_a_run() -> dict[str, Any]:
    """What `results.json` holds after five epochs, with a test set and unlabelled texts."""
    plan, logged, validation = plan_of_a_run(), epochs(5), scored(200, seed=1)
    for name in ("loss", "accuracy", "macro_f1"):
        logged[3][f"validation_{name}"] = validation[name]
    logged[4]["best"] = False
    content = {
        "schema": 1,
        "name": "agnews-adamw",
        "seed": 1,
        "classes": list(CLASSES),
        "recipe": {"name": "agnews-adamw", "optimizer": {"rate": 5e-4, "lora_plus": 1.0}},
        "plan": plan,
        "notes": [*plan["notes"], "4 of 400 test texts are cut at 256 tokens"],
        "data": {
            "train": texts_of("/data/agnews_train.csv", 3800),
            "validation": texts_of("/data/agnews_train.csv", 200),
            "test": texts_of("/data/agnews_test.csv", 400),
            "unlabelled": texts_of("/data/unlabelled.pkl", 8000, labelled=False),
        },
        "epochs": logged,
        "training": {
            **{"steps": 1190, "best_epoch": 4, "stopped_early": False},
            **{"precision": "bfloat16", "path": "reference"},
        },
        "parameters": plan["trainable"],
        "validation": validation,
        "test": scored(400, seed=2),
        "unlabelled": {"distribution": dict(zip(CLASSES, (1900, 2100, 2050, 1950), strict=True))},
        "verification": {"largest_difference": 2.4e-7},
        "model": {"name": "distilroberta-base", "sha256": "c4191388" * 8},
        "seconds": {
            **{"data": 0.114, "tokens": 0.556, "model": 0.292, "prefix": 3.2, "training": 277.015},
            **{"evaluation": 19.246, "verification": 7.154},
        },
        "versions": {"budgerigar": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
        "hardware": {
            **{"platform": "Linux x86_64", "processor": "", "threads": 2, "device": "cpu"}
        },
    }
    return json.loads(json.dumps(content))


def hostile_results() -> dict[str, Any]:
    """The same with strings that try to break out of the page, or to make it too wide."""
    results = results_of_a_run()
    for error, text in zip(results["test"]["confident_errors"], HOSTILE, strict=False):
        error["text"] = text
    results["name"] = "<b>name</b>" + "n" * 500
    results["notes"] += ['<img src="http://example.invalid/x.png">', "/a/long/path" * 200]
    results["model"]["name"] = "/models/" + "m" * 400
    results["data"]["test"]["source"] = "/data/" + "d" * 900
    results["data"]["unlabelled"]["source"] = "/data/<i>" + "u" * 900
    long_name = "<u>class</u>" + "c" * 400
    renamed = {"Business": long_name}
    results["classes"] = [renamed.get(name, name) for name in CLASSES]
    for name in ("train", "validation", "test"):
        counts = results["data"][name]["classes"]
        results["data"][name]["classes"] = {renamed.get(k, k): v for k, v in counts.items()}
    for name in ("validation", "test"):
        results[name]["classes"][2]["name"] = long_name
        for error in results[name]["confident_errors"]:
            error["label"] = renamed.get(error["label"], error["label"])
            error["predicted"] = renamed.get(error["predicted"], error["predicted"])
    return results


class Page(HTMLParser):
    """A parsed page: its elements in order, its texts, and whether every element is closed."""

    EMPTY = frozenset(("meta", "br", "hr", "img"))

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    def count(self, tag: str) -> int:
        return sum(one == tag for one, _ in self.elements)


def written(results: dict[str, Any], folder: Path) -> str:
    report.write_report(results, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def keys_of(value: Any) -> Any:
    """The names in nested results, where they are fixed."""
    if isinstance(value, dict):
        return {name: keys_of(one) for name, one in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [keys_of(value[0])]
    return None


# Curves


def test_figures_are_whole_and_the_same_each_time(tmp_path):
    first = report.draw_curves([Curve("one", epochs(3))], tmp_path / "a")
    second = report.draw_curves([Curve("one", epochs(3))], tmp_path / "b")
    assert [path.name for path in first] == ["a.png", "a.svg"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.svg", "b.png", "b.svg"}
    assert ElementTree.parse(first[1]).getroot().tag.endswith("svg")
    assert "dc:date" not in first[1].read_text()


@pytest.mark.parametrize("runs", [1, 2, 10])
def test_any_number_of_runs(tmp_path, runs):
    curves = [Curve(f"a run of number {n}", epochs(1 + n, seed=n)) for n in range(runs)]
    png, svg = report.draw_curves(curves, tmp_path / "curves.of.runs")
    assert png.name == "curves.of.runs.png"
    pixels = image.imread(png)[:, :, :3]
    assert pixels.std() > 0.05
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert edge.min() > 0.99, "something is cut at the figure's edge"
    assert len(list(ElementTree.parse(svg).getroot().iter())) > 100


@pytest.mark.parametrize("name", ["_hidden", r"cost $\nothing$ here", "new\nline", "n" * 300, "--"])
def test_a_name_stands_in_the_legend_as_it_is(tmp_path, name):
    with report._plain_matplotlib():
        figure = report._figure([Curve(name, epochs(2))] * 10, report.PANELS, legend=True)
        shown = [text.get_text() for text in figure.legends[0].get_texts()]
        assert shown == [report._short_name(name)] * 10
        assert len(shown[0]) <= report.LONGEST_NAME
        report._save(figure, tmp_path / "curves.svg", "svg")
    ElementTree.parse(tmp_path / "curves.svg")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_epochs_are_whole_numbers_and_losses_stand_on_zero(count):
    with report._plain_matplotlib():
        figure = report._figure([Curve("one", epochs(count))], report.PANELS, legend=True)
        figure.draw_without_rendering()
        for axes in figure.axes:
            low, high = axes.get_xlim()
            ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
            assert ticks
            assert all(tick == int(tick) and 1 <= tick <= count for tick in ticks)
            assert axes.get_lines()[0].get_marker() == "o"
        training, validation, accuracy = figure.axes
    assert training.get_ylim()[0] == validation.get_ylim()[0] == 0
    low, high = accuracy.get_ylim()
    assert high - low >= report.SMALLEST_SPAN
    assert low >= -0.5
    assert high <= 100.5


def test_the_ring_is_around_the_last_epoch_that_was_best():
    records = epochs(4)
    for record, best in zip(records, (True, False, True, False), strict=True):
        record["best"] = best
    with report._plain_matplotlib():
        figure = report._figure([Curve("one", records)], report.PANELS, legend=False)
        ring = figure.axes[2].get_lines()[1]
    assert ring.get_xdata().tolist() == [3]
    assert ring.get_ydata().tolist() == [100 * records[2]["validation_accuracy"]]


@pytest.mark.filterwarnings("error")
def test_losses_of_zero_and_an_accuracy_of_one(tmp_path):
    record = {**epochs(1)[0], "training_loss": 0.0, "validation_accuracy": 1.0, "best": False}
    report.draw_curves([Curve("one", [record])], tmp_path / "curves")


def test_a_run_without_epochs_has_no_curves(tmp_path):
    with pytest.raises(RunError, match="run new has no curves yet: none of its epochs is finished"):
        report.draw_curves([Curve("old", epochs(2)), Curve("new", [])], tmp_path / "curves")
    with pytest.raises(RunError, match="no curves to draw"):
        report.draw_curves([], tmp_path / "curves")
    assert list(tmp_path.iterdir()) == []


def test_curves_are_drawn_without_pyplot_whatever_the_users_settings_are(tmp_path):
    plain = report.draw_curves([Curve("one", epochs(3))], tmp_path / "plain")
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\naxes.facecolor: red\n")
    code = (
        "import json, sys; from pathlib import Path; from budgerigar import report;"
        "assert 'matplotlib' not in sys.modules;"
        "report.draw_curves([report.Curve('one', json.loads(sys.argv[1]))], Path(sys.argv[2]));"
        "assert 'matplotlib.pyplot' not in sys.modules;"
        "import matplotlib; assert matplotlib.rcParams['lines.linewidth'] == 9"
    )
    own = tmp_path / "own"
    subprocess.run(
        [sys.executable, "-c", code, json.dumps(epochs(3)), str(own)],
        env={**os.environ, "MATPLOTLIBRC": str(tmp_path), "MPLBACKEND": "tkagg"},
        check=True,
    )
    for path in plain:
        assert path.read_bytes() == own.with_suffix(path.suffix).read_bytes()


# The page


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
    for line in ("2.4e-07", results["model"]["sha256"], "torch 2.13.0", "277.0", "total 307.6"):
        assert line in text


def test_the_page_is_the_runs_own_and_the_fixture_has_a_runs_keys(tiny_run, tmp_path):
    own = (tiny_run.folder / "report.html").read_text(encoding="utf-8")
    assert written(tiny_run.results, tmp_path) == own
    real, made = tiny_run.results, results_of_a_run()
    assert list(made) == list(real)
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
    assert report._shortened("word " * 100) == " ".join(["word"] * 59) + "…"
    assert report._shortened("a" * 300) == "a" * 300
    assert report._shortened("a" * 301) == "a" * 299 + "…"
    assert report._shortened("a " + "b" * 400) == "a " + "b" * 297 + "…"


def test_without_a_test_set_validation_leads(tmp_path):
    results = {**results_of_a_run(), "test": None}
    del results["data"]["test"]
    text = Page(written(results, tmp_path)).text
    assert "Results on the test texts" not in text
    assert "of the 200 validation texts were classified correctly" in text
    assert "there was no test set" in text


def test_without_unlabelled_texts_notes_or_errors(tmp_path):
    results = {**results_of_a_run(), "unlabelled": None, "notes": []}
    del results["data"]["unlabelled"]
    results["test"]["confident_errors"] = []
    results["test"]["correct"] = results["test"]["texts"]
    text = Page(written(results, tmp_path)).text
    assert "unlabelled" not in text
    assert "To keep in mind" not in text
    assert "None: all 400 predictions are right." in text


def test_unlabelled_texts_have_their_distribution(tmp_path):
    text = Page(written(results_of_a_run(), tmp_path)).text
    assert "How the 8,000 texts of /data/unlabelled.pkl were classified" in text
    assert "World 1,900 23.75 %" in text.replace("\N{NO-BREAK SPACE}", " ")


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
        report.write_report(results, tmp_path / "report.html")
    with pytest.raises(RunError, match="has no curves yet"):
        report.write_report({**results_of_a_run(), "epochs": []}, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
