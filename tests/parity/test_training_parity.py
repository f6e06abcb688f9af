"""Our loop against a plain transformers + PEFT script, step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model, set_peft_model_state_dict
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
)

from budgerigar import pipeline, recipe_text
from budgerigar.encoder import cohort
from budgerigar.files import read_lines
from budgerigar.runs import RunFolder

STEPS = 20
SETTINGS = [
    "precision=float32",
    "model.dropout=0",
    "model.attention_dropout=0",
    "adapter.dropout=0",
]


class Recorder:
    """Takes down the rows of every batch that the loop asks for, and the first weights."""

    def __init__(self, monkeypatch) -> None:
        self.batches: list[tuple[np.ndarray, np.ndarray]] = []
        self.start: dict[str, torch.Tensor] = {}
        original = cohort.logits

        def logits(texts, batches):
            (batch,) = batches
            if not self.batches:
                self.start = {n: t.clone() for n, t in batch.encoder.state().items()}
            self.batches.append(texts.batch(batch.rows))
            return original(texts, batches)

        monkeypatch.setattr(cohort, "logits", logits)


def plain_losses(model_folder, recipe, recorder, labels_of, layers, total_steps) -> list[float]:
    """Trains as a notebook would, on the same batches from the same first weights."""
    model = AutoModelForSequenceClassification.from_pretrained(
        model_folder,
        num_labels=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    peft_model = get_peft_model(
        model,
        LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=recipe.adapter.rank,
            lora_alpha=recipe.adapter.alpha,
            lora_dropout=0.0,
            target_modules=["query", "value"],
            layers_to_transform=layers,
            layers_pattern="layer",
        ),
    )
    set_peft_model_state_dict(peft_model, recorder.start)
    peft_model.train()
    rates = dict.fromkeys(layers, recipe.optimizer.rate)
    for entry in recipe.optimizer.layers:
        first, last = map(int, entry.layers.split("-"))
        rates.update(dict.fromkeys(range(first, last + 1), entry.rate))
    groups = []
    for name, parameter in peft_model.named_parameters():
        if parameter.requires_grad:
            head = "classifier" in name
            layer = None if head else int(name.split("layer.")[1].split(".")[0])
            rate = recipe.optimizer.head if head else rates[layer]
            groups.append({"params": [parameter], "lr": rate})
    kind = {"adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}[recipe.optimizer.name]
    optimizer = kind(groups, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(0.1 * total_steps), total_steps)
    pad = AutoTokenizer.from_pretrained(model_folder).pad_token_id
    losses = []
    for ids_T, offsets in recorder.batches[:STEPS]:
        texts = [torch.tensor(ids_T[a:b]) for a, b in zip(offsets, offsets[1:], strict=False)]
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=pad)
        loss = peft_model(
            input_ids=ids,
            attention_mask=(ids != pad).long(),
            labels=torch.tensor([labels_of[tuple(text.tolist())] for text in texts]),
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in peft_model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("path", ["auto", "reference"])
@pytest.mark.parametrize("name", ["agnews-rmsprop", "agnews-adamw"])
def test_the_first_steps_have_the_losses_of_a_plain_script(
    name, path, tiny, texts, tmp_path, monkeypatch
):
    recorder = Recorder(monkeypatch)
    recipe = recipe_text.read(
        name,
        [
            *SETTINGS,
            f"path={path}",
            f"model.name={tiny}",
            f"data.train={texts / 'train.csv'}",
            "data.test=null",
            "data.validation=0.2",
            "adapter.layers=2-3",
            "epochs=3",
        ],
    )
    run = pipeline.train(recipe, tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    labels_of = {}
    for line in (texts / "train.csv").read_text().splitlines()[1:]:
        text, label = line.rsplit(",", 1)
        labels_of[tuple(tokenizer(text)["input_ids"])] = int(label)
    ours = [record["loss"] for record in read_lines(RunFolder(run.folder).steps)]
    plain = plain_losses(tiny, recipe, recorder, labels_of, [2, 3], len(ours))
    assert len(plain) == STEPS
    assert ours[:STEPS] == pytest.approx(plain, abs=1e-4)
    assert max(plain) - min(plain) > 0.01
