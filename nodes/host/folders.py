"""Lists the loadable files of ComfyUI's model folders for choices, and finds the path of a name."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import folder_paths

from ...ltx2_core.loading.checkpoint import open_checkpoint
from ...ltx2_core.loading.detect import Component
from ...ltx2_core.loading.lora import open_lora
from ...ltx2_core.storage.files import entries
from ...ltx2_core.text.folder import NotGemmaError, find_tokenizer
from ...ltx2_core.text.gemma import find_encoder
from ...ltx2_core.text.single_file import TOKENIZERS

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
DIFFUSION_MODELS = "diffusion_models"
DIFFUSERS = "diffusers"
VAES = "vae"
LORAS = "loras"
UPSCALERS = "latent_upscale_models"
TEXT_ENCODERS = "text_encoders"
CATEGORIES = (CHECKPOINTS, DIFFUSION_MODELS, DIFFUSERS, VAES, TEXT_ENCODERS, LORAS, UPSCALERS)

SHOWN = 4
"""Number of names that an error lists."""

CACHED = 2**20
"""Entries of the caches of checked files: with fewer than files, every listing would read all files again."""

Stamp = tuple[tuple[str, int, int], ...]
"""Name, time of change and size of every file of a model."""


@dataclass(frozen=True, kw_only=True)
class FileList:
    """The files in some of ComfyUI's model folders that hold one type of component.

    Names from the first folder are plain; names from others begin with the folder, such as
    ``vae/x.safetensors``. ``problem`` is a function that says why a path cannot be loaded, "" if it can.
    ``download`` is a text that names files to download and their folders. Paths for which ``list_anyway`` is
    True are listed last although they cannot be loaded; choosing one raises an error that says why.
    """

    what: str
    categories: tuple[str, ...]
    problem: Callable[[Path], str]
    download: str
    list_anyway: Callable[[Path], bool] = lambda path: False

    def names(self) -> list[str]:
        """All names to choose from: first those that can be loaded, then those that are listed anyway."""
        usable, faulty = self._sorted()
        return usable + faulty

    @property
    def placeholder(self) -> str:
        """The name that stands in an empty list; choosing it raises an error that says what to download."""
        return f"no {self.what.removeprefix('a ').removeprefix('an ')} found"

    def path(self, name: str) -> Path:
        """The path of a listed name. Raises ValueError for a name that cannot be loaded."""
        if message := self.refusal(name):
            raise ValueError(message)
        return dict(self._listed())[name]

    def refusal(self, name: str) -> str:
        """Say why ``name`` cannot be chosen and which names can; "" if it can."""
        # The files are listed again at each call: the user may have added or removed some since the nodes
        # were defined.
        listed = dict(self._listed())
        # The placeholder is checked first, because it is no file and would else be reported as a missing one.
        if name == self.placeholder:
            reason = f"{self.placeholder} in models/{' or models/'.join(self.categories)}"
        elif name.lower().endswith(".gguf"):
            reason = (
                f"{name} is a GGUF: these loaders read safetensors. A GGUF pack loads it, and its MODEL fits"
            )
        elif name not in listed:
            reason = f"{name} is not in models/{' or models/'.join(self.categories)}"
        elif reason := self.problem(listed[name]):
            reason = f"{name} cannot serve as {self.what}: {reason}"
        else:
            return ""
        names, _ = self._sorted()
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        choose = f"Choose {', '.join(names[:SHOWN])}{more}, or download" if names else "Download"
        return f"{reason}. {choose} {self.download}"

    def _sorted(self) -> tuple[list[str], list[str]]:
        """(names that can be loaded, names that are listed although they cannot)."""
        usable: list[str] = []
        faulty: list[str] = []
        for name, path in self._listed():
            if not self.problem(path):
                usable.append(name)
            elif self.list_anyway(path):
                faulty.append(name)
        return usable, faulty

    def _listed(self) -> Iterator[tuple[str, Path]]:
        """Yield (name, path) of every file in the folders, whether it can be loaded or not."""
        for category in self.categories:
            for name, path in _paths(category):
                yield (name if category == self.categories[0] else f"{category}/{name}"), path


def every_file() -> dict[str, Path]:
    """Return a dict: name -> path of every model file and folder.

    Each name begins with its ComfyUI folder.
    """
    return {f"{c}/{name}": path for c in CATEGORIES for name, path in _paths(c)}


def model_path(name: str) -> Path:
    """Return the path of a name in :func:`every_file`. Raises ValueError if it no longer exists."""
    if name not in (files := every_file()):
        raise ValueError(f"{name} is not in the model folders any more; choose another file")
    return files[name]


def holds(*components: Component) -> Callable[[Path], str]:
    """Make a ``problem`` function for :class:`FileList`: it says why a path lacks some of ``components``."""
    return lambda path: _lacks(path, _stamp(path), components)


def lora_problem(path: Path) -> str:
    """Say why ``path`` is not a LoRA for LTX-2; "" if it is one."""
    return _lora_problem(path, _stamp(path))


def encoder_problem(path: Path) -> str:
    """Say why ``path`` cannot be loaded as a text encoder; "" if it can."""
    return _encoder_problem(path, _stamp(path))[0]


def is_faulty_encoder(path: Path) -> bool:
    """Whether ``path`` is a folder of a Gemma model that cannot be loaded as a text encoder."""
    return _encoder_problem(path, _stamp(path))[1]


def _paths(category: str) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of a ComfyUI model folder; nothing if ComfyUI lacks it or cannot list it."""
    # Hosts differ in their categories, and a user may remove one in the paths file.
    if category not in folder_paths.folder_names_and_paths:
        return
    try:
        yield from _folders() if category == DIFFUSERS else _files(category)
    except OSError as error:
        _warn(f"models/{category} cannot be listed: {error}")


def _files(category: str) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of the files of a ComfyUI model folder.

    A text encoder that is a folder is listed once, with the name of its first file.
    """
    encoders: dict[str, bool] = {}
    for name in sorted(folder_paths.get_filename_list(category)):
        parent = os.path.dirname(name)
        # The other shards of a folder would be further names of the same encoder.
        if encoders.get(parent) or (found := folder_paths.get_full_path(category, name)) is None:
            continue
        path = Path(found)
        if category == TEXT_ENCODERS and parent not in encoders:
            folder = _encoder_at(path)
            encoders[parent] = folder != path
            path = folder
        yield name, path


def _folders() -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of folders in models/diffusers and one level below: pipelines and split files."""
    for root in map(Path, folder_paths.get_folder_paths(DIFFUSERS)):
        # One level is enough for pipelines and for folders by author; a full search of a network drive would
        # take minutes.
        for path in sorted((*root.glob("*/"), *root.glob("*/*/"))) if os.path.isdir(root) else ():
            if _is_model_folder(path):
                yield path.relative_to(root).as_posix(), path


def _is_model_folder(path: Path) -> bool:
    """Whether a folder is a whole diffusers pipeline or holds split files; False for a component's folder."""
    if os.path.isfile(path / "model_index.json"):
        return True
    try:
        # A component of a pipeline has a config.json next to its weights; split files have none.
        return any(path.glob("*.safetensors")) and not os.path.isfile(path / "config.json")
    except OSError:
        return False


def _encoder_at(path: Path) -> Path:
    """Return the folder of a file if it contains a ``config.json``, as a text encoder does; else the file."""
    # A broken link counts too: the folder is then listed and its error says what is missing.
    return path.parent if os.path.lexists(path.parent / "config.json") else path


def _stamp(path: Path) -> Stamp:
    """A value by which results are cached: it changes when the files at ``path`` change."""
    own = _stamp_of(path)
    if not os.path.isdir(path):
        return (own,)
    # A folder with so many files that listing them raises is no model.
    with suppress(ValueError):
        return (
            own,
            *(_stamp_of(f) for f in entries(path) if f.suffix in (".safetensors", ".json", ".model")),
        )
    return (own,)


def _stamp_of(path: Path) -> tuple[str, int, int]:
    """(name, time of change in ns, size in bytes) of a file; zeros if it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        # An unreadable file still gets a stamp, so that its error is cached and is checked again once it can
        # be read.
        return str(path), 0, 0
    # Time and size stand for the content, because hashing files of many GB at each listing is too slow.
    return str(path), status.st_mtime_ns, status.st_size


@lru_cache(maxsize=CACHED)
def _lacks(path: Path, stamp: Stamp, components: tuple[Component, ...]) -> str:
    def check() -> None:
        checkpoint = open_checkpoint(path)
        for component in components:
            checkpoint.check(component)

    return _reason(path, check)


@lru_cache(maxsize=CACHED)
def _lora_problem(path: Path, stamp: Stamp) -> str:
    def check() -> None:
        if not open_lora(path).is_of_family:
            raise ValueError("it is a LoRA of another model: none of its layers has a name of LTX-2")

    return _reason(path, check)


@lru_cache(maxsize=CACHED)
def _encoder_problem(path: Path, stamp: Stamp) -> tuple[str, bool]:
    """(why ``path`` cannot be a text encoder, "" if it can; whether it is a faulty Gemma folder).

    ``stamp`` is part of the key of the cache.
    """
    foreign = False

    def check() -> None:
        nonlocal foreign
        try:
            # A folder of another language model is no mistake of the user and is left out without a warning.
            find_encoder(path)
        except NotGemmaError:
            foreign = True
            raise
        if path.is_dir():
            find_tokenizer(path)
        elif not any(name in open_checkpoint(path).tensors for name in TOKENIZERS):
            raise ValueError("it carries no tokenizer")

    reason = _reason(path, check)
    faulty = bool(reason) and not foreign and os.path.isdir(path)
    if faulty:
        _warn(f"{path} cannot be loaded: {reason}")
    return reason, faulty


def _reason(path: Path, check: Callable[[], None]) -> str:
    """Call ``check`` and return the message of its error; "" if it raises none.

    It never raises, because one bad file must not stop the loading of the nodes.
    """
    try:
        check()
    except (OSError, ValueError) as error:
        return _short(error, path)
    except Exception as error:  # noqa: BLE001 a hostile file may raise anything in a reader
        reason = f"it is malformed ({type(error).__name__}: {_short(error, path)})"
        _warn(f"{path} cannot be loaded: {reason}")
        return reason
    return ""


@lru_cache(maxsize=CACHED)
def _warn(message: str) -> None:
    """Log a warning; the same message is logged only once."""
    logger.warning("%s", _encodable(message))


def _short(error: Exception, path: Path) -> str:
    """The message of an error, with the name of the file in place of its path."""
    return _encodable(str(error).replace(str(path), path.name))


def _encodable(text: str) -> str:
    """Escape the bytes of a file name that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
