"""Searches: candidates over the budget are refused and counted, cohorts halve, the best is
trained anew, and a search that was stopped goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from budgerigar import comparison, pipeline, recipe_text, search
from budgerigar.conductor import Conductor
from budgerigar.errors import BudgetError, Interrupted, RecipeError, RunError
from budgerigar.runs import RunFolder


def space_file(folder: Path, recipe: Path, text: str = "") -> Path:
    path = folder / "ranks.yaml"
    path.write_text(
        f"""
recipe: {recipe}
space:
  adapter.rank: {{low: 1, high: 24, log: true}}
  adapter.targets: [[query], [query, value], all]
  optimizer.name: [adamw, rmsprop]
  optimizer.rate: {{low: 1e-4, high: 1e-2, log: true}}
cohort: 3
{text}
"""
    )
    return path


@pytest.fixture(scope="module")
def found(tiny_recipe, tmp_path_factory):
    """A search over a budget that leaves out some of its candidates."""
    folder = tmp_path_factory.mktemp("search")
    return search.search(
        space_file(folder, tiny_recipe),
        folder / "out",
        trials=7,
        seeds=1,
        settings=["budget.max_trainable=3500", "epochs=4"],
    )


def test_candidates_over_the_budget_are_refused_and_counted(found):
    assert len(found.trials) == 7
    assert found.refused > 0
    assert all(one["trainable"] <= 3500 for one in found.trials)
    assert f"{found.refused} more were over the budget" in found.words()[0]
    folders = {path.name for path in (found.folder / "trials").iterdir()}
    assert folders == {f"trial-{one['number']:04d}" for one in found.trials}


def test_halving_ends_some_candidates_early(found):
    epochs = {one["number"]: one["epochs"] for one in found.trials}
    states = {one["number"]: one["state"] for one in found.trials}
    assert set(epochs.values()) <= {1, 3, 4}
    assert min(epochs.values()) < max(epochs.values()) == 4
    for number, state in states.items():
        assert state == ("complete" if epochs[number] == 4 else "pruned")


def test_trials_never_see_the_test_texts_and_share_their_split(found):
    fingerprints = set()
    for one in found.trials:
        run = pipeline.Run(found.folder / "trials" / f"trial-{one['number']:04d}")
        assert run.results["test"] is None
        assert run.results["validation"]["accuracy"] == one["accuracy"]
        kept = run.results["epochs"][run.results["training"]["kept_epoch"] - 1]
        assert kept["validation_accuracy"] == one["accuracy"]
        fingerprints.add(run.results["data"]["validation"]["fingerprint"])
    assert len(fingerprints) == 1


def test_the_best_is_a_recipe_and_is_trained_with_fresh_seeds(found):
    assert found.best["accuracy"] == max(one["accuracy"] for one in found.trials)
    written = recipe_text.read(found.folder / "best.yaml")
    assert written.adapter.rank == found.best["changes"]["adapter.rank"]
    assert written.optimizer.name == found.best["changes"]["optimizer.name"]
    assert written.data.test is not None
    results = found.comparison.results
    assert results["scored_on"] == "test"
    seeds = {run["seed"] for one in results["recipes"] for run in one["runs"]}
    used = recipe_text.read(found.folder / "trials" / "trial-0000" / "recipe.yaml").seed
    assert used not in seeds
    assert "on which it was chosen: no figure to claim" in found.words()[1]
    json.dumps(found.to_json(), allow_nan=False)


def test_a_stopped_search_goes_on(tiny_recipe, tmp_path, monkeypatch):
    """Stopped inside the second cohort: its trials are taken up again, none is lost."""
    out = tmp_path / "out"
    original = RunFolder.log_step

    def log_and_interrupt(self, record):
        original(self, record)
        if record["step"] == 5 and self.path.name == "trial-0003":
            os.kill(os.getpid(), 2)

    monkeypatch.setattr(RunFolder, "log_step", log_and_interrupt)
    with pytest.raises(Interrupted, match=f"budgie search --resume {out} goes on"):
        search.search(
            space_file(tmp_path, tiny_recipe, "sampler: random\nreduction: null"),
            out,
            trials=4,
            seeds=0,
            settings=["epochs=1"],
        )
    monkeypatch.undo()
    resumed = search.resume(out)
    assert [one["number"] for one in resumed.trials] == [0, 1, 2, 3]
    assert all(one["state"] == "complete" for one in resumed.trials)
    assert resumed.comparison is None
    more = search.resume(out, trials=5)
    assert [one["number"] for one in more.trials] == [0, 1, 2, 3, 4]
    assert len({json.dumps(one["changes"]) for one in more.trials}) == 5


def test_a_finished_search_trains_nothing_again(found, monkeypatch):
    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(Conductor, "run", never)
    again = search.resume(found.folder)
    assert again.best == found.best
    assert again.words() == found.words()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("space: {}", "space"),
        ("space: {adapter.rank: {low: 4, high: 2}}", "is not below high 2"),
        ("space: {adapter.rank: {low: 0, high: 2, log: true}}", "log needs numbers above 0"),
        ("space: {adapter.rnak: [1, 2]}", "adapter.rnak: unknown field, did you mean 'rank'?"),
        ("space: {adapter.rank: [1, none]}", "adapter.rank"),
        ("space: {adapter.rank: []}", "adapter.rank"),
        ("space: {adapter.rank: [1]}\nsampler: grid", "sampler"),
        ("space: {adapter.rank: [1]}\ntrials: 0", "trials"),
        ("space: {adapter.rank: [1]}\nname: ../elsewhere", "name"),
        ("space: [1, 2]", "space"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(tiny_recipe, tmp_path, text, why):
    path = tmp_path / "space.yaml"
    path.write_text(f"recipe: {tiny_recipe}\n{text}\n")
    with pytest.raises(RecipeError, match=why.replace("?", r"\?")):
        search.search(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_space_without_room_in_the_budget_ends(tiny_recipe, tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(f"recipe: {tiny_recipe}\nspace: {{adapter.rank: [20, 24]}}\n")
    with pytest.raises(BudgetError, match="candidates in a row were over the budget"):
        search.search(path, tmp_path / "out", settings=["budget.max_trainable=3500"])


def test_folders_of_others_are_left_alone(found, tiny_recipe, tmp_path):
    with pytest.raises(RunError, match="holds a search already"):
        search.search(space_file(tmp_path, tiny_recipe), found.folder)
    with pytest.raises(RunError, match="holds no search"):
        search.resume(tmp_path)
    with pytest.raises(RunError, match=r"has no comparison\.json"):
        comparison.Comparison(found.folder)
