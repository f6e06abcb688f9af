"""Feeds spoilt inputs to every reader: no crash, no hang, nothing runs.

    python benchmarks/faults/fuzz.py [--inputs 1000000] [--only NAME] [--atheris] [--json FILE]

Every reader takes its share in a process of its own, with a time limit for each input. An audit
hook sees what Python does: a process that is started, a connection, or a file that is opened for
writing outside the reader's folder ends it. An input that is neither read nor refused in one line
is kept and named, the first of each place where it arose. With `--atheris` (`pip install atheris`)
coverage leads the choice of inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "faults"), str(ROOT / "tests"), str(ROOT / "benchmarks")]

SHARES = {"report of results": 0.02, "report of comparison": 0.02, "recipe": 0.4, "space": 0.4}
"""Of readers that are slower than the others: how many inputs, as part of an even share."""
SECONDS = 30
"""That one input may take."""
RUNS = re.compile(r"os\.(system|exec|posix_spawn|fork|kill)|subprocess\.|socket\.connect|ctypes\.")


def main() -> None:
    """Runs all readers, prints how many inputs each took and refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in total")
    parser.add_argument("--only", help="one reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--atheris", action="store_true", help="let coverage lead")
    parser.add_argument("--faults", type=Path, default=Path("faults"), help="folder for them")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    from measure import write

    with tempfile.TemporaryDirectory() as folder, _instrumented(asked):
        found = _targets(Path(folder))
        names = [asked.only] if asked.only else list(found)
        even = asked.inputs / sum(SHARES.get(name, 1.0) for name in names)
        taken: dict[str, int] = {}
        for name in names:
            count = max(1, round(even * SHARES.get(name, 1.0)))
            place = Path(folder) / name.replace(" ", "-")
            place.mkdir()
            found[name].prepare(place)
            begin = time.monotonic()
            child = os.fork()
            if child == 0:
                # What the readers say of damage would fill the screen.
                os.dup2(os.open(place / "said", os.O_WRONLY | os.O_CREAT), 2)
                _fuzz(found[name], place, count, asked)
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            seconds = time.monotonic() - begin
            if code != 0:
                kept = asked.faults / f"{place.name}-exit-code-{code}"
                kept.mkdir(parents=True, exist_ok=True)
                for name_of in ("input", "said"):
                    shutil.copy(place / name_of, kept)
                print(f"{name}: exit code {code}, see {kept}", flush=True)
                continue
            refused = (place / "refused").read_text()
            taken[name] = count
            print(f"{name:24} {count:8,} inputs, {refused} refused, {seconds:.0f} s", flush=True)
        if (Path(folder) / "faults").exists():
            shutil.copytree(Path(folder) / "faults", asked.faults, dirs_exist_ok=True)
    if len(taken) < len(names) or asked.faults.exists():
        named = ", ".join(sorted(path.name for path in asked.faults.iterdir()))
        sys.exit(f"faults in {asked.faults}, each with its input: {named}")
    print(f"{sum(taken.values()):,} inputs: no crash, no hang, nothing ran")
    write(asked.json, {}, taken)


def _instrumented(asked: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """Has modules tell atheris which of their lines run; those that are imported from here on."""
    if not asked.atheris:
        return contextlib.nullcontext()
    import atheris

    instrumented: contextlib.AbstractContextManager[Any] = atheris.instrument_imports(
        include=["budgerigar", "yaml"]
    )
    return instrumented


def _targets(work: Path) -> dict[str, Any]:
    """The readers, with the files of a tiny run that is trained for them."""
    from inputs import targets

    from budgerigar import adapters, pipeline
    from budgerigar.encoder import checkpoints, hardware, paths, shape
    from conftest import CLASSES, tiny_roberta, write_texts

    os.environ["BUDGERIGAR_CACHE"] = str(work / "cache")
    recipe = work / "tiny.yaml"
    model = tiny_roberta(work / "model")
    train, test = write_texts(work / "train.csv", 80, 1), write_texts(work / "test.csv", 40, 2)
    recipe.write_text(
        f"name: tiny\nmodel: {{name: {model}}}\ndata: {{train: {train}, test: {test}, "
        f"classes: {list(CLASSES)}, max_length: 32}}\nadapter: {{layers: last:2, rank: 4}}\n"
        "epochs: 2\nbatch: 8\nprecision: float32\ncheckpoint_steps: 5\n"
    )
    run = pipeline.train(recipe, work / "run")
    info = adapters.read_info(run.adapter)
    checkpoint = checkpoints.locate(info.model, None, weights=True)
    base = paths.Base(
        checkpoint=checkpoint,
        shape=shape.read_shape(checkpoint, len(CLASSES)),
        classes=len(CLASSES),
        precision="float32",
        device=hardware.device(),
        sha256=info.model_sha256,
    )
    return targets(run.folder, base, recipe)


def _fuzz(target: Any, place: Path, count: int, asked: argparse.Namespace) -> None:
    """Feeds a reader in this process, and ends it."""
    from inputs import spoil

    from budgerigar.errors import BudgieError

    refused = done = 0
    file = place / target.file
    draw = random.Random(asked.seed)

    def one(content: bytes) -> None:
        nonlocal refused, done
        done += 1
        file.write_bytes(content)
        # The reader may write its file anew: the report does not, a log does.
        (place / "input").write_bytes(content)
        signal.alarm(SECONDS)
        try:
            target.read(file)
        except BudgieError as error:
            refused += 1
            if any(place in str(error) for place in "\n\r"):
                _keep(place, content, error)
        except Exception as error:
            _keep(place, content, error)
        finally:
            signal.alarm(0)

    def finish() -> None:
        share = f"{refused / max(1, done):.0%}"
        (place / "refused").write_text(share)

    try:
        for whole in target.whole:
            one(whole)
        if refused:
            raise AssertionError("it refuses what it should take")
        _watch(place)
        if asked.atheris:
            _led_by_coverage(target, one, finish, count, place)
        for _ in range(count):
            one(spoil(draw, target))
        finish()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _keep(place: Path, content: bytes, error: Exception) -> None:
    """Keeps an input and what came of it, one for each place in the code."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    name = f"{place.name}-{type(error).__name__}-{Path(frame.filename).stem}-{frame.lineno}"
    kept = place.parent / "faults" / name
    if not kept.exists():
        kept.mkdir(parents=True)
        (kept / "input").write_bytes(content)
        (kept / "said").write_text("".join(traceback.format_exception(error)), errors="replace")


def _led_by_coverage(target: Any, one: Any, finish: Any, count: int, place: Path) -> None:
    """Lets atheris choose; it ends the process by itself."""
    import atheris
    from inputs import spoil

    corpus = place / "corpus"
    corpus.mkdir()
    for number, whole in enumerate(target.whole):
        (corpus / str(number)).write_bytes(whole)

    def mutate(content: bytes, limit: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if draw.random() < 0.5:
            return bytes(atheris.Mutate(content, limit))
        return spoil(draw, target)[:limit]

    done = 0

    def counted(content: bytes) -> None:
        nonlocal done
        one(content)
        done += 1
        if done == count:
            finish()
            os._exit(0)

    options = [f"-runs={count + 1000}", "-max_len=20000", "-verbosity=0", str(corpus)]
    atheris.Setup(["fuzz", *options], counted, custom_mutator=mutate)
    atheris.Fuzz()


def _watch(place: Path) -> None:
    """Ends the process where a reader starts something or writes outside its folder."""
    allowed = (str(place), tempfile.gettempdir(), "/dev/null")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        wrong = RUNS.match(event) is not None
        if event == "open" and isinstance(arguments[0], str):
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            wrong = bool(writes) and not arguments[0].startswith(allowed)
        if wrong:
            os.write(2, f"a reader did {event} {arguments!r}\n".encode())
            os._exit(3)

    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
