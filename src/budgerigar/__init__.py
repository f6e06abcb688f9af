"""Fine-tuning text classifiers on a budget.

import budgerigar

run = budgerigar.train("quickstart", epochs=2)
budgerigar.load(run.adapter).predict(["Shares fell 3 percent."]).labels
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from budgerigar.pipeline import Run, plan, resume, train
    from budgerigar.predict import load

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "load", "plan", "resume", "train"]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: only who uses a verb waits for them.
    if name == "load":
        from budgerigar.predict import load

        return load
    if name in __all__:
        from budgerigar import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'budgerigar' has no attribute {name!r}")
