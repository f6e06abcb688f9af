"""Recipes proposed, refused over the budget, trained in cohorts and halved on validation results.

A search's folder holds the study (`study.db`), a run's folder for each trial, the best recipe
as a file, and at the end a comparison of it, trained anew with fresh seeds, with the recipe
that the search began with: what a search found on validation texts is no figure to claim.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgerigar import comparison, planning, recipe_text, sources
from budgerigar.comparison import Comparison
from budgerigar.conductor import conduct
from budgerigar.console import note, warn
from budgerigar.errors import BudgetError, BudgieError, RunError, told
from budgerigar.files import exclusive, read_json, write_json, write_text
from budgerigar.planning import Plan
from budgerigar.recipe import Range, Recipe, Space
from budgerigar.runs import RunFolder

if TYPE_CHECKING:
    import optuna

    from budgerigar.training.run import EpochRecord

SCHEMA = 1
"""Version of `search.json`."""
REFUSED_IN_A_ROW = 100
"""Candidates over the budget, one after another, at which a search ends."""
OVER_BUDGET, FAILURE = "over the budget", "failure"
"""What a trial's record in the study says of it."""


@dataclass(frozen=True)
class SearchFolder:
    """The places of a search's files."""

    path: Path

    @property
    def space(self) -> Path:
        """What was asked for; written first."""
        return self.path / "search.json"

    @property
    def study(self) -> Path:
        """Optuna's storage: an SQLite file."""
        return self.path / "study.db"

    @property
    def best(self) -> Path:
        """The best recipe, as a file."""
        return self.path / "best.yaml"

    @property
    def comparison(self) -> Path:
        """The best recipe and the first one, trained with fresh seeds."""
        return self.path / "comparison"

    def trial(self, number: int) -> RunFolder:
        """A trial's run."""
        return RunFolder(self.path / "trials" / f"trial-{number:04d}")


class Search:
    """A finished search.

    Attributes:
        folder: where its files are.
        trials: every candidate's number, state, changes, validation accuracy and epochs.
        refused: candidates over the budget.
        best: the best trial.
        comparison: what fresh seeds say of it.
    """

    def __init__(
        self,
        folder: Path,
        trials: list[dict[str, Any]],
        best: dict[str, Any],
        found: Comparison | None,
    ) -> None:
        self.folder, self.best, self.comparison = folder, best, found
        self.trials = [one for one in trials if one["state"] != OVER_BUDGET]
        self.refused = len(trials) - len(self.trials)

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "trials": self.trials,
            "refused": self.refused,
            "best": self.best,
            "recipe": str(SearchFolder(self.folder).best),
            "comparison": None if self.comparison is None else self.comparison.results,
        }

    def words(self) -> list[str]:
        """What the search did and found."""
        refused = f"{self.refused} more were over the budget and refused before they ran"
        changes = ", ".join(f"{path}={value}" for path, value in self.best["changes"].items())
        return [
            f"{len(self.trials)} candidates trained; {refused}",
            f"best: trial {self.best['number']} ({changes}), validation accuracy "
            f"{self.best['accuracy']:.2%}, on which it was chosen: no figure to claim",
            *(self.comparison.words if self.comparison else ()),
        ]


def search(
    space: str | Path,
    out: str | Path | None = None,
    *,
    trials: int | None = None,
    seeds: int | None = None,
    settings: Sequence[str] = (),
) -> Search:
    """Searches a space of recipes, and trains the best anew with fresh seeds.

    Args:
        space: the YAML file of the space; see `recipe.Space`.
        out: the search's folder; `runs/NAME` under the current one where empty.
        trials, seeds: in place of the file's.
        settings: fields to change in the recipe that is varied, such as `epochs=2`.

    Raises:
        BudgieError: whatever stands in the way.
    """
    given = {"trials": trials, "seeds": seeds}
    made = recipe_text.read_space(
        Path(space), {name: value for name, value in given.items() if value is not None}
    )
    files = SearchFolder(Path(out) if out else Path("runs") / made.name)
    if files.space.exists():
        raise RunError(
            f"{files.path} holds a search already",
            remedy=f"go on with it: {_resume_with(files)}; or choose another --out",
        )
    recipe = sources.absolute(recipe_text.read(made.recipe, settings))
    searcher = _Searcher(files, made, recipe)
    searcher.check()
    write_json(
        files.space,
        {
            "schema": SCHEMA,
            "space": made.model_dump(mode="json"),
            "recipe": recipe.model_dump(mode="json", exclude_unset=True),
        },
    )
    return searcher.run()


def resume(folder: str | Path, trials: int | None = None) -> Search:
    """Goes on with a search that was stopped or killed, or that is to have more trials.

    Raises:
        RunError: when there is none, or another process has it.
    """
    files = SearchFolder(Path(folder))
    if not files.space.exists():
        raise RunError(
            f"{files.path} holds no search", remedy="start one with budgie search SPACE.yaml"
        )
    asked = read_json(files.space)

    def unfit(why: str) -> RunError:
        return RunError(
            f"{files.space} is not what a search began with",
            why=why,
            remedy="put a copy of the file back, or begin a new search",
        )

    with told(unfit):
        if trials is not None:
            asked["space"]["trials"] = trials
        made = Space.model_validate(asked["space"])
        recipe = recipe_text.from_tree(asked["recipe"], str(files.space))
    if trials is not None:
        write_json(files.space, asked)
    return _Searcher(files, made, recipe).run()


def _resume_with(files: SearchFolder) -> str:
    return f"budgie search --resume {shlex.quote(str(files.path))}"


class _Searcher:
    """A search at work."""

    def __init__(self, files: SearchFolder, space: Space, recipe: Recipe) -> None:
        self.files, self.space, self.recipe = files, space, recipe

    def check(self) -> None:
        """Refuses a space with a value that no recipe can have, before anything is written."""
        for path, dimension in self.space.space.items():
            values = (dimension.low, dimension.high) if isinstance(dimension, Range) else dimension
            for value in values:
                self._candidate({path: value})
        planning.make_plan(self.recipe, sources.class_names(self.recipe), weights=True)

    def run(self) -> Search:
        """Trains cohort after cohort, then compares the best with the first recipe."""
        self.files.path.mkdir(parents=True, exist_ok=True)
        with exclusive(self.files.path):
            study = self._study()
            while cohort := self._unfinished(study) or self._ask(study):
                self._train(study, cohort)
            trials = [_record(one) for one in study.get_trials(deepcopy=False)]
            best = self._best(trials)
        candidate = self._candidate(best["changes"])
        write_text(self.files.best, recipe_text.to_yaml(self._named(candidate)))
        return Search(self.files.path, trials, best, self._compare(candidate))

    def _study(self) -> optuna.Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = f"sqlite:///{self.files.study.resolve()}"
        reduction = self.space.reduction
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if reduction is not None:
            pruner = optuna.pruners.SuccessiveHalvingPruner(1, reduction)
        study = optuna.create_study(
            storage=storage,
            study_name=self.space.name,
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )
        # A search that goes on must not propose what it has proposed before.
        seed = (self.space.seed + len(study.get_trials(deepcopy=False))) % 2**32
        if self.space.sampler == "random":
            study.sampler = optuna.samplers.RandomSampler(seed=seed)
        else:
            study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return study

    def _unfinished(self, study: optuna.Study) -> list[tuple[optuna.Trial, Plan]]:
        """The cohort that a stopped search left in training."""
        import optuna

        left = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        return [
            (optuna.Trial(study, one._trial_id), self._plan(one.number, _changes(one)))
            for one in left
        ]

    def _ask(self, study: optuna.Study) -> list[tuple[optuna.Trial, Plan]]:
        """The next cohort of candidates inside the budget; empty where enough have trained."""
        import optuna

        done = sum(OVER_BUDGET not in one.user_attrs for one in study.get_trials(deepcopy=False))
        wanted = min(self.space.cohort, self.space.trials - done)
        cohort: list[tuple[optuna.Trial, Plan]] = []
        refused = 0
        while len(cohort) < wanted:
            trial = study.ask()
            changes = {
                path: _suggest(trial, path, dimension)
                for path, dimension in self.space.space.items()
            }
            try:
                cohort.append((trial, self._plan(trial.number, changes)))
                refused = 0
            except BudgetError as error:
                trial.set_user_attr(OVER_BUDGET, str(error))
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                refused += 1
                if refused == REFUSED_IN_A_ROW:
                    raise BudgetError(
                        f"{refused} candidates in a row were over the budget",
                        why=str(error),
                        remedy="narrow the space, or raise budget.max_trainable",
                    ) from error
        return cohort

    def _train(self, study: optuna.Study, cohort: list[tuple[optuna.Trial, Plan]]) -> None:
        """Trains a cohort and tells the study what came of it."""
        import optuna

        by_folder = {self.files.trial(trial.number).path: trial for trial, _ in cohort}

        def gives_up(folder: RunFolder, record: EpochRecord) -> bool:
            trial = by_folder[folder.path]
            trial.report(record.validation_accuracy, record.epoch)
            return record.epoch < self.recipe.epochs and trial.should_prune()

        planned = [(self.files.trial(trial.number), plan) for trial, plan in cohort]
        errors = conduct(planned, _resume_with(self.files), gives_up)
        states = optuna.trial.TrialState
        for (trial, _), (folder, _), error in zip(cohort, planned, errors, strict=True):
            if error is not None:
                warn(f"{folder.path.name} failed: {error}")
                trial.set_user_attr(FAILURE, str(error))
                study.tell(trial, state=states.FAIL)
                continue
            results = folder.read_results()
            trial.set_user_attr("epochs", len(results["epochs"]))
            trial.set_user_attr("trainable", results["parameters"]["total"])
            accuracy = results["validation"]["accuracy"]
            trial.set_user_attr("accuracy", accuracy)
            if len(results["epochs"]) < self.recipe.epochs:
                study.tell(trial, state=states.PRUNED)
            else:
                study.tell(trial, accuracy)
        done = [one for one in study.get_trials(deepcopy=False) if "accuracy" in one.user_attrs]
        if done:
            best = max(one.user_attrs["accuracy"] for one in done)
            note(
                f"{len(done)} of {self.space.trials} candidates trained, best validation {best:.2%}"
            )

    def _best(self, trials: list[dict[str, Any]]) -> dict[str, Any]:
        """The trial of highest validation accuracy; of equal ones the smaller, then the first."""
        trained = [one for one in trials if one["accuracy"] is not None]
        if not trained:
            failures = [one["failure"] for one in trials if one["failure"]]
            raise BudgieError(
                "no candidate could be trained",
                why=failures[0] if failures else "all were over the budget",
                remedy="look at the ranges of the space",
            )
        return min(trained, key=lambda one: (-one["accuracy"], one["trainable"], one["number"]))

    def _candidate(self, changes: Mapping[str, Any]) -> Recipe:
        return recipe_text.change(self.recipe, changes)

    def _plan(self, number: int, changes: Mapping[str, Any]) -> Plan:
        """The plan of a candidate, which is scored on validation texts alone."""
        candidate = self._candidate(changes)
        unscored = {"test": None, "unlabelled": None, "seed": candidate.split_seed}
        data = candidate.data.model_copy(update=unscored)
        name = self.files.trial(number).path.name
        return planning.make_plan(
            candidate.model_copy(update={"data": data, "name": name}),
            sources.class_names(candidate),
            weights=True,
        )

    def _named(self, candidate: Recipe) -> Recipe:
        return candidate.model_copy(update={"name": f"{self.space.name}-best"})

    def _compare(self, candidate: Recipe) -> Comparison | None:
        """The best recipe beside the first, with seeds that the search has not used."""
        if self.space.seeds == 0:
            return None
        if comparison.ComparisonFolder(self.files.comparison).runs.exists():
            return comparison.resume(self.files.comparison)
        return comparison.compare(
            [self.recipe, self._named(candidate)],
            self.space.seeds,
            self.files.comparison,
            first_seed=self.recipe.seed + 1,
        )


def _suggest(trial: optuna.Trial, path: str, dimension: Range | tuple[Any, ...]) -> Any:
    if not isinstance(dimension, Range):
        # As JSON: the study keeps numbers and text, and a choice may be a list.
        return json.loads(trial.suggest_categorical(path, [json.dumps(one) for one in dimension]))
    if dimension.is_whole:
        return trial.suggest_int(path, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(path, dimension.low, dimension.high, log=dimension.log)


def _changes(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """A trial's values by their paths."""
    return {
        path: json.loads(value) if isinstance(value, str) else value
        for path, value in trial.params.items()
    }


def _record(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """A trial for people and programs."""
    said = trial.user_attrs
    return {
        "number": trial.number,
        "state": OVER_BUDGET if OVER_BUDGET in said else trial.state.name.lower(),
        "changes": _changes(trial),
        "accuracy": said.get("accuracy"),
        "epochs": said.get("epochs"),
        "trainable": said.get("trainable"),
        "failure": said.get(FAILURE),
    }
