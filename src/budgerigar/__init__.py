"""Fine-tuning text classifiers on a budget.

import budgerigar

run = budgerigar.train("quickstart", epochs=2)
budgerigar.load(run.adapter).predict(["Shares fell 3 percent."]).labels
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from budgerigar.comparison import Comparison, compare
    from budgerigar.pipeline import Run, plan, resume, train
    from budgerigar.predict import load

__version__ = "0.1.0"
__all__ = ["Comparison", "Run", "__version__", "compare", "load", "plan", "resume", "train"]


_HOMES = {"load": "predict", "compare": "comparison", "Comparison": "comparison"}
"""Modules of the verbs that `pipeline` does not have."""


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: only who uses a verb waits for them.
    if name in __all__:
        home = import_module(f"budgerigar.{_HOMES.get(name, 'pipeline')}")
        return getattr(home, name)
    raise AttributeError(f"module 'budgerigar' has no attribute {name!r}")
