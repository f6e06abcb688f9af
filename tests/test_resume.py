"""A run that was killed and resumed ends with the same bytes as one that never stopped."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from budgerigar import pipeline, recipe_text
from budgerigar.errors import Interrupted, RunError
from budgerigar.files import RETIRED_PREFIX, TEMPORARY_PREFIX, read_lines
from budgerigar.runs import RunFolder

KILLS = 10


@pytest.fixture(scope="module")
def forks():
    """Child processes that need not import torch anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["budgerigar.pipeline", "budgerigar.encoder.reference"])
    return context


def start(recipe: Path, out: Path) -> None:
    pipeline.train(recipe, out)


def go_on(out: Path) -> None:
    pipeline.resume(out)


def adapter_bytes(run: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((run / "adapter").iterdir())}


def steps_logged(run: Path) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in read_lines(run / "steps.jsonl")]


def logged(log: Path, target, *args) -> None:
    """Runs in the child: sends what it prints to a file."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    target(*args)


def run_child(forks, target, *args) -> int:
    """Runs a function in a child; what it printed is in `said(RUN)`."""
    child = forks.Process(target=logged, args=(log_of(args[-1]), target, *args))
    child.start()
    child.join(120)
    return child.exitcode


def log_of(run: Path) -> Path:
    return run.with_name(f"{run.name}.log")


def said(run: Path) -> str:
    return log_of(run).read_text()


def kill_after(forks, recipe: Path, out: Path, steps: int) -> bool:
    """Starts a run and kills it once it has logged so many steps; False if it was quicker."""
    child = forks.Process(target=start, args=(recipe, out))
    child.start()
    log = out / "steps.jsonl"
    while child.is_alive():
        if log.exists() and log.read_bytes().count(b"\n") >= steps:
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            return child.exitcode == -signal.SIGKILL
        time.sleep(0.001)
    return False


@pytest.fixture(scope="module")
def unbroken(forks, tiny_recipe, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert run_child(forks, start, tiny_recipe, out) == 0
    return out


def test_the_same_recipe_gives_the_same_bytes(forks, tiny_recipe, unbroken, tmp_path):
    assert run_child(forks, start, tiny_recipe, tmp_path / "run") == 0
    assert adapter_bytes(tmp_path / "run") == adapter_bytes(unbroken)
    assert steps_logged(tmp_path / "run") == steps_logged(unbroken)


def test_killed_at_random_steps_and_resumed(forks, tiny_recipe, unbroken, tmp_path):
    draw = random.Random()
    total = len(steps_logged(unbroken))
    killed = 0
    for number in range(KILLS):
        step = draw.randrange(1, total - 2)
        out = tmp_path / f"run{number}"
        killed += kill_after(forks, tiny_recipe, out, step)
        assert run_child(forks, go_on, out) == 0, f"killed after step {step}"
        assert adapter_bytes(out) == adapter_bytes(unbroken), f"killed after step {step}"
        assert steps_logged(out) == steps_logged(unbroken), f"killed after step {step}"
        epochs = [(e["epoch"], e["best"]) for e in read_lines(out / "epochs.jsonl")]
        assert [epoch for epoch, _ in epochs] == [1, 2, 3]
        litter = [p for pre in (TEMPORARY_PREFIX, RETIRED_PREFIX) for p in out.rglob(f"{pre}*")]
        assert litter == []
    assert killed >= KILLS - 2


def test_a_cut_checkpoint_is_passed_over_for_the_one_before(forks, tiny_recipe, unbroken, tmp_path):
    out = tmp_path / "run"
    assert kill_after(forks, tiny_recipe, out, 14)
    newest = sorted((out / "checkpoints").glob("*.safetensors"))[-1]
    os.truncate(newest, newest.stat().st_size // 2)
    assert run_child(forks, go_on, out) == 0
    assert f"checkpoint {newest.stem} is damaged" in said(out)
    assert adapter_bytes(out) == adapter_bytes(unbroken)


def test_a_flipped_bit_in_every_checkpoint_starts_over(forks, tiny_recipe, unbroken, tmp_path):
    out = tmp_path / "run"
    assert kill_after(forks, tiny_recipe, out, 12)
    for path in (out / "checkpoints").glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert run_child(forks, go_on, out) == 0
    assert "is damaged" in said(out)
    assert adapter_bytes(out) == adapter_bytes(unbroken)


def interrupt_soon(recipe: Path, out: Path) -> None:
    """Sends this process SIGINT after some steps, as Ctrl-C does."""
    original = RunFolder.log_step

    def log_and_interrupt(self, record):
        original(self, record)
        if record["step"] == 7:
            os.kill(os.getpid(), signal.SIGINT)

    RunFolder.log_step = log_and_interrupt
    try:
        pipeline.train(recipe, out)
    except Interrupted as error:
        print(error, flush=True)
        os._exit(error.exit_code)


def test_ctrl_c_ends_with_a_checkpoint_and_resumes(forks, tiny_recipe, unbroken, tmp_path):
    out = tmp_path / "run"
    assert run_child(forks, interrupt_soon, tiny_recipe, out) == 130
    told = f"stopped at step 7 of 48. A checkpoint is written; budgie train --resume {out} goes on."
    assert told in said(out)
    assert len(list((out / "checkpoints").glob("step-00000007.*"))) == 2
    assert run_child(forks, go_on, out) == 0
    assert adapter_bytes(out) == adapter_bytes(unbroken)


def test_what_cannot_be_resumed(tiny_recipe, unbroken, tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        pipeline.resume(tmp_path)
    with pytest.raises(RunError, match="holds a run already"):
        pipeline.train(tiny_recipe, unbroken)
    assert pipeline.resume(unbroken).results["training"]["steps"] == 48


def test_resuming_with_other_texts_is_refused(forks, tiny_recipe, texts, tmp_path):
    copy = tmp_path / "train.csv"
    copy.write_bytes((texts / "train.csv").read_bytes())
    recipe = tmp_path / "recipe.yaml"
    changed = recipe_text.read(tiny_recipe, [f"data.train={copy}"])
    recipe.write_text(recipe_text.to_yaml(changed))
    assert kill_after(forks, recipe, tmp_path / "run", 6)
    copy.write_text(copy.read_text().replace("minister", "army"))
    with pytest.raises(RunError, match="have changed since the run began"):
        pipeline.resume(tmp_path / "run")
