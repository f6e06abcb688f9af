"""What runs leave, made up for the tests of reports, and a parser of their pages."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from html.parser import HTMLParser
from typing import Any

import numpy as np
from scipy.special import softmax

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
        "schema": 2,
        "name": "agnews-adamw",
        "seed": 1,
        "classes": list(CLASSES),
        "recipe": {"name": "agnews-adamw", "optimizer": {"rate": 5e-4, "lora_plus": 1.0}},
        "plan": plan,
        "notes": [*plan["notes"], "4 of 400 test texts are cut at 256 tokens"],
        "findings": [],
        "data": {
            "train": texts_of("/data/agnews_train.csv", 3800),
            "validation": texts_of("/data/agnews_train.csv", 200),
            "test": texts_of("/data/agnews_test.csv", 400),
            "unlabelled": texts_of("/data/unlabelled.pkl", 8000, labelled=False),
        },
        "epochs": logged,
        "training": {
            **{"steps": 1190, "keep": "best", "kept_epoch": 4, "stopped_early": False},
            **{"precision": "bfloat16", "path": "reference", "cohort": 1},
        },
        "parameters": plan["trainable"],
        "validation": validation,
        "test": scored(400, seed=2),
        "unlabelled": {"distribution": dict(zip(CLASSES, (1900, 2100, 2050, 1950), strict=True))},
        "verification": {"largest_difference": 2.4e-7},
        "model": {"name": "distilroberta-base", "sha256": "c4191388" * 8},
        "seconds": {
            **{
                "data": 0.114,
                "audit": 0.6,
                "tokens": 0.556,
                "model": 0.292,
                "prefix": 3.2,
                "training": 277.015,
            },
            **{"shift": 0.0, "evaluation": 19.246, "verification": 7.154},
        },
        "versions": {"budgerigar": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
        "hardware": {
            **{"platform": "Linux x86_64", "processor": "", "threads": 2, "device": "cpu"}
        },
    }
    return json.loads(json.dumps(content))


def finding(text: str = "Parrots counted again") -> dict[str, Any]:
    """A finding as a run's results hold it."""
    return {
        **{"code": "leak", "severity": "error", "count": 2, "file": "test"},
        "message": f"2 of 400 test texts stand in the training rows {text}",
        "advice": "Remove them from the training rows: results on them show memory, not skill.",
        "rows": [7, 1234],
        "examples": [
            {"row": 7, "text": text, "about": "same as training row 3021"},
            {"row": 1234, "text": text},
        ],
    }


def shift_of_texts(by: str = "agnews-adamw") -> dict[str, Any]:
    """What audit's shift section holds of 40 texts of two kinds."""
    methods = [("average thresholded confidence", "Garg et al. 2022, arXiv:2201.04234")]
    expected = {
        kind: {
            **{"texts": texts, "accuracy": accuracy, "low": accuracy - 0.03, "high": 0.95},
            "methods": [
                {
                    **{"method": method, "source": source, "accuracy": accuracy},
                    **{"low": accuracy - 0.03, "high": 0.95},
                }
                for method, source in methods
            ],
        }
        for kind, texts, accuracy in (("all", 40, 0.88), ("like", 25, 0.91), ("unlike", 15, 0.83))
    }
    shown = [{"row": 3, "text": "a strange text"}, {"row": 7, "text": "another one"}]
    return {
        "test": {
            **{"method": "classifier two-sample test", "auc": 0.76, "low": 0.75, "high": 0.77},
            **{"p_value": 1e-9, "sampled": {"train": 160, "against": 40}},
        },
        "kinds": "two",
        "verdict": "two populations: 25 texts are like the training texts, 15 are of another kind",
        "groups": ["like"] * 25 + ["unlike"] * 15,
        "probability_unlike": [0.1] * 25 + [0.9] * 15,
        "certainty": 0.97,
        "clusters": [
            {
                **{"group": "unlike", "texts": 15, "share": 0.375, "words": ["now", "one"]},
                "examples": shown,
                "parts": [{"texts": 9, "words": ["chip"], "examples": shown[:1], "rows": [3]}],
            },
            {"group": "like", "texts": 25, "share": 0.625, "words": [], "examples": shown[1:]},
        ],
        "most_unlike": [{**shown[0], "probability": 0.998}],
        "differences": [
            {
                **{"measure": "characters", "train": 236.5, "against": 210.0},
                **{"like": 236.0, "unlike": 170.25, "distance": -1.52},
            }
        ],
        "expected_accuracy": {
            "by": by,
            "validation": {"texts": 200, "accuracy": 0.925},
            **expected,
        },
        "class_shares": {
            kind: dict(zip(CLASSES, (0.25, 0.25, 0.3, 0.2), strict=True))
            for kind in ("train", "all", "like", "unlike")
        },
    }


def comparison_of_recipes(
    names: Sequence[str] = ("agnews-rmsprop", "agnews-adamw"), seeds: int = 3, rows: int = 200
) -> dict[str, Any]:
    """What `comparison.json` holds after recipes were trained with some seeds."""
    from budgerigar import predict, results
    from budgerigar.evaluation import metrics, verdicts

    draw = np.random.default_rng(5)
    labels = draw.integers(0, 4, rows)
    said, records = {}, []
    template = results_of_a_run()
    for name in names:
        logits_SBC = draw.normal(0.0, 1.6, (seeds, rows, 4))
        logits_SBC[:, np.arange(rows), labels] += 3.6
        said[name] = logits_SBC.argmax(axis=2)
        runs = []
        for seed, logits_BC in enumerate(logits_SBC, start=1):
            kept = ("validation", "unlabelled", "training", "seconds", "data", "model", "hardware")
            run = {"folder": f"{name}-seed-{seed}", "seed": seed, "failure": None}
            run |= {"epochs": epochs(5, seed=seed + len(name))}
            run |= {one: copy.deepcopy(template[one]) for one in kept}
            texts = [f"{' '.join(draw.choice(WORDS, 24))} {row}" for row in range(rows)]
            run["test"] = {
                **results.scores_record(metrics.score(logits_BC, labels), CLASSES),
                "confident_errors": results.confident_errors(
                    predict.from_logits(CLASSES, logits_BC), labels, texts
                ),
            }
            run["training"] |= {"path": "engine", "cohort": len(names) * seeds}
            run["seconds"]["evaluation"] += seed
            runs.append(run)
        pooled = softmax(np.concatenate(list(logits_SBC)), axis=1)
        bins = metrics.reliability(pooled, np.tile(labels, seeds))
        recipe = {
            **{"name": name, "seed": 1, "batch": 16, "data": {"seed": 1, "max_rows": None}},
            "keep": "best",
            "optimizer": {"name": name.removeprefix("agnews-"), "rate": 5e-4},
        }
        records.append(
            {
                **{"name": name, "recipe": recipe, "trainable": plan_of_a_run()["trainable"]},
                **{"path": "engine", "runs": runs, "reliability": [asdict(one) for one in bins]},
            }
        )
    verdict = verdicts.compare({name: said_SB == labels for name, said_SB in said.items()})
    content = {
        "schema": 2,
        "name": "optimizers",
        "scored_on": "test",
        "texts": rows,
        "classes": list(CLASSES),
        "recipes": records,
        "verdict": asdict(verdict),
        "disagreements": [
            {
                "row": row,
                "text": f"{' '.join(draw.choice(WORDS, 24))} {row}",
                "label": CLASSES[labels[row]],
                "said": {
                    name: {CLASSES[c]: int((said_SB[:, row] == c).sum()) for c in said_SB[:, row]}
                    for name, said_SB in said.items()
                },
            }
            for row in range(6)
        ],
        "notes": ["agnews-adamw-seed-9 failed and is left out: its loss is not finite."],
        "versions": {"budgerigar": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
    }
    return json.loads(json.dumps(content))


def hostile_comparison() -> dict[str, Any]:
    """A comparison whose every text and name is bent on mischief."""
    content = comparison_of_recipes(('<b>one</b> "&amp;' + "n" * 300, "{{ c.name }}<td>"))
    content["name"] = "<script>alert(2)</script>" + "n" * 500
    content["notes"] += ['<img src="http://example.invalid/x.png">', "/a/long/path" * 200]
    content["disagreements"] = [
        {**content["disagreements"][0], "row": row, "text": text}
        for row, text in enumerate(HOSTILE)
    ]
    long_name = "<u>class</u>" + "c" * 400
    content["classes"][2] = long_name
    for record in content["recipes"]:
        record["recipe"]["optimizer"]["name"] += "<i>" + "o" * 400
        for run in record["runs"]:
            run["data"]["test"]["source"] = "/data/" + "d" * 900
            run["unlabelled"]["distribution"] = {"<td>": 3, long_name: 7}
    content["disagreements"][0] |= {"label": long_name, "said": {"<b>": {long_name: 3, "<i>": 1}}}
    return content


def hostile_results() -> dict[str, Any]:
    """The same with strings that try to break out of the page, or to make it too wide."""
    results = results_of_a_run()
    for error, text in zip(results["test"]["confident_errors"], HOSTILE, strict=False):
        error["text"] = text
    results["name"] = "<b>name</b>" + "n" * 500
    results["notes"] += ['<img src="http://example.invalid/x.png">', "/a/long/path" * 200]
    results["findings"] = [finding("w" * 900), finding("<i>" + " long" * 200)]
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


def keys_of(value: Any) -> Any:
    """The names in nested results, where they are fixed."""
    if isinstance(value, dict):
        return {name: keys_of(one) for name, one in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [keys_of(value[0])]
    return None
