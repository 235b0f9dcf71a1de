"""What the host's model folders hold that can be loaded: lists for combos, and the paths of names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath

import folder_paths

from ...ltx2_core.loading.checkpoint import open_checkpoint
from ...ltx2_core.loading.detect import Component
from ...ltx2_core.loading.lora import open_lora
from ...ltx2_core.text.folder import find_tokenizer
from ...ltx2_core.text.gemma import find_encoder
from ...ltx2_core.text.single_file import TOKENIZERS

CHECKPOINTS = "checkpoints"
DIFFUSION_MODELS = "diffusion_models"
DIFFUSERS = "diffusers"
VAES = "vae"
LORAS = "loras"
UPSCALERS = "latent_upscale_models"
TEXT_ENCODERS = "text_encoders"
CATEGORIES = (CHECKPOINTS, DIFFUSION_MODELS, DIFFUSERS, VAES, TEXT_ENCODERS, LORAS, UPSCALERS)

SHOWN = 4
"""Names of a list that an error repeats."""

Stamp = tuple[tuple[str, int, int], ...]
"""Name, time of change and size of every file of a model."""


@dataclass(frozen=True, kw_only=True)
class FileList:
    """The files of some host folders that serve one purpose.

    Names of the first category stand alone, those of others behind the category: ``vae/x.safetensors``.
    ``problem`` says why a path cannot serve, "" where it can; ``get`` what to download and where to put it.
    """

    what: str
    categories: tuple[str, ...]
    problem: Callable[[Path], str]
    get: str

    def names(self) -> list[str]:
        """Everything that can be loaded."""
        return [name for name, path in self._listed() if not self.problem(path)]

    @property
    def nothing(self) -> str:
        """What a list shows that would be empty: a name that the page can send and hear more about."""
        return f"no {self.what.removeprefix('a ').removeprefix('an ')} found"

    def path(self, name: str) -> Path:
        """Where a listed name lies. Raises ValueError that says what it is instead, and what to choose."""
        if message := self.refusal(name):
            raise ValueError(message)
        return dict(self._listed())[name]

    def refusal(self, name: str) -> str:
        """Why ``name`` cannot be chosen, and what can; "" where it can."""
        listed = dict(self._listed())
        if name == self.nothing:
            reason = f"{self.nothing} in models/{' or models/'.join(self.categories)}"
        elif name not in listed:
            reason = f"{name} is not in models/{' or models/'.join(self.categories)}"
        elif reason := self.problem(listed[name]):
            reason = f"{name} cannot serve as {self.what}: {reason}"
        else:
            return ""
        names = self.names()
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        choose = f"Choose {', '.join(names[:SHOWN])}{more}, or download" if names else "Download"
        return f"{reason}. {choose} {self.get}"

    def _listed(self) -> Iterator[tuple[str, Path]]:
        for category in self.categories:
            for name, path in _paths(category):
                yield (name if category == self.categories[0] else f"{category}/{name}"), path


def every_file() -> dict[str, Path]:
    """Name, with its category in front, and path of all model files and folders."""
    return {f"{c}/{name}": path for c in CATEGORIES for name, path in _paths(c)}


def model_path(name: str) -> Path:
    """The path of a name in :func:`every_file`. Raises ValueError where it is gone."""
    if name not in (files := every_file()):
        raise ValueError(f"{name} is not in the model folders any more; choose another file")
    return files[name]


def text_encoder_path(name: str) -> Path:
    """The folder of a listed text encoder where a ``config.json`` lies beside the file, else the file."""
    return _encoder_at(Path(folder_paths.get_full_path_or_raise(TEXT_ENCODERS, name)))


def holds(*components: Component) -> Callable[[Path], str]:
    """A file or folder from which all of ``components`` can be loaded."""
    return lambda path: _lacks(path, _stamp(path), components)


def is_lora(path: Path) -> str:
    return _lora_problem(path, _stamp(path))


def is_encoder(path: Path) -> str:
    return _encoder_problem(path, _stamp(path))


def _paths(category: str) -> Iterator[tuple[str, Path]]:
    """Names and paths in a category of the host; none where a host does not know it."""
    if category not in folder_paths.folder_names_and_paths:
        return
    if category == DIFFUSERS:
        yield from _folders()
        return
    encoders: set[PurePath] = set()
    for name in sorted(folder_paths.get_filename_list(category)):
        found = folder_paths.get_full_path(category, name)
        if found is None or PurePath(name).parent in encoders:
            continue
        path = _encoder_at(Path(found)) if category == TEXT_ENCODERS else Path(found)
        if path.is_dir():
            # A folder of shards is listed by its first file.
            encoders.add(PurePath(name).parent)
        yield name, path


def _folders() -> Iterator[tuple[str, Path]]:
    """Folders in models/diffusers, and one level below: pipelines and split files."""
    for root in map(Path, folder_paths.get_folder_paths(DIFFUSERS)):
        for path in sorted((*root.glob("*/"), *root.glob("*/*/"))) if root.is_dir() else ():
            if (path / "model_index.json").is_file() or (
                any(path.glob("*.safetensors")) and not (path / "config.json").is_file()
            ):
                yield path.relative_to(root).as_posix(), path


def _encoder_at(path: Path) -> Path:
    return path.parent if (path.parent / "config.json").is_file() else path


def _stamp(path: Path) -> Stamp:
    """Changes when what is known of ``path`` has to be found out again."""
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix in (".safetensors", ".json", ".model"))
    try:
        return tuple((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files)
    except OSError:
        return ()


@lru_cache(maxsize=4096)
def _lacks(path: Path, stamp: Stamp, components: tuple[Component, ...]) -> str:
    try:
        checkpoint = open_checkpoint(path)
        for component in components:
            checkpoint.check(component)
    except (OSError, ValueError) as error:
        return _short(error, path)
    return ""


@lru_cache(maxsize=4096)
def _lora_problem(path: Path, stamp: Stamp) -> str:
    try:
        lora = open_lora(path)
    except (OSError, ValueError) as error:
        return _short(error, path)
    return (
        "" if lora.is_of_family else "it is a LoRA of another model: none of its layers has a name of LTX-2"
    )


@lru_cache(maxsize=4096)
def _encoder_problem(path: Path, stamp: Stamp) -> str:
    try:
        find_encoder(path)
        if path.is_dir():
            find_tokenizer(path)
        elif not any(name in open_checkpoint(path).tensors for name in TOKENIZERS):
            return "it carries no tokenizer"
    except (OSError, ValueError) as error:
        return _short(error, path)
    return ""


def _short(error: Exception, path: Path) -> str:
    """The message without the folder, which the page need not show."""
    return str(error).replace(str(path), path.name)
