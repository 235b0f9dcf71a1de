"""The loadable files of the host's model folders: their names for choices, and the paths of names."""

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
MODEL_PATCHES = "model_patches"
CATEGORIES = (CHECKPOINTS, DIFFUSION_MODELS, DIFFUSERS, VAES, TEXT_ENCODERS, LORAS, UPSCALERS, MODEL_PATCHES)

SHOWN = 4
"""Number of names that an error lists."""

CACHED = 2**20
"""Entries of the caches of checked files: with fewer than files, every listing would read all files again."""

Stamp = tuple[tuple[str, int, int], ...]
"""Name, time of change and size of every file of a model."""


@dataclass(frozen=True, kw_only=True)
class FileList:
    """The files in some of the host's folders that can be loaded for one purpose.

    Names of files in the first category are plain, those in others begin with the category:
    ``vae/x.safetensors``. ``what`` names the purpose in errors. ``problem`` returns why a path cannot be
    loaded, "" if it can; ``download`` says which files to download, and to which folders. Paths for which
    ``list_anyway`` is true are listed last although they cannot be loaded: choosing one is an error that says
    why.
    """

    what: str
    categories: tuple[str, ...]
    problem: Callable[[Path], str]
    download: str
    list_anyway: Callable[[Path], bool] = lambda path: False

    def names(self) -> list[str]:
        """Names of the files that can be loaded, then of those that are listed although they cannot."""
        usable, faulty = self._sorted()
        return usable + faulty

    @property
    def placeholder(self) -> str:
        """The single name that is listed if there is no file.

        Choosing it is an error that says what to download.
        """
        return f"no {self.what.removeprefix('a ').removeprefix('an ')} found"

    def path(self, name: str) -> Path:
        """The path of the file with this name. Raises ValueError for one that cannot be loaded."""
        if message := self.refusal(name):
            raise ValueError(message)
        return dict(self._listed())[name]

    def refusal(self, name: str) -> str:
        """Why the file ``name`` cannot be loaded, and which files can; "" if it can."""
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
        """Two lists of names: files that can be loaded, and files that are listed although they cannot."""
        usable: list[str] = []
        faulty: list[str] = []
        for name, path in self._listed():
            if not self.problem(path):
                usable.append(name)
            elif self.list_anyway(path):
                faulty.append(name)
        return usable, faulty

    def _listed(self) -> Iterator[tuple[str, Path]]:
        """Yield name and path of every file in the categories, loadable or not."""
        for category in self.categories:
            for name, path in _paths(category):
                yield (name if category == self.categories[0] else f"{category}/{name}"), path


def every_file() -> dict[str, Path]:
    """All model files and folders: name, which begins with its category -> path."""
    return {f"{c}/{name}": path for c in CATEGORIES for name, path in _paths(c)}


def model_path(name: str) -> Path:
    """The path of a name from :func:`every_file`. Raises ValueError if the file is gone."""
    if name not in (files := every_file()):
        raise ValueError(f"{name} is not in the model folders any more; choose another file")
    return files[name]


def holds(*components: Component) -> Callable[[Path], str]:
    """Return a function for ``FileList.problem``.

    For a path it returns why the file does not hold all of ``components``, "" if it does.
    """
    return lambda path: _lacks(path, _stamp(path), components)


def lora_problem(path: Path) -> str:
    """Why the file ``path`` is no LoRA for LTX-2; "" if it is one."""
    return _lora_problem(path, _stamp(path))


def encoder_problem(path: Path) -> str:
    """Why ``path`` cannot be loaded as a text encoder; "" if it can."""
    return _encoder_problem(path, _stamp(path))[0]


def is_faulty_encoder(path: Path) -> bool:
    """Whether ``path`` is a folder of a Gemma model that cannot be loaded as a text encoder."""
    return _encoder_problem(path, _stamp(path))[1]


def _paths(category: str) -> Iterator[tuple[str, Path]]:
    """Yield names and paths in one category of the host's folders.

    Yields nothing if the host lacks the category or cannot list it.
    """
    # Hosts differ in their categories, and a user may remove one in the paths file.
    if category not in folder_paths.folder_names_and_paths:
        return
    try:
        yield from _folders() if category == DIFFUSERS else _files(category)
    except OSError as error:
        _warn(f"models/{category} cannot be listed: {error}")


def _files(category: str) -> Iterator[tuple[str, Path]]:
    """Yield names and paths of the files in a category.

    A text encoder that is a folder appears once, under the name of its first file.
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
    """Yield names and paths of model folders in models/diffusers and one level below.

    These are diffusers pipelines and folders of split files.
    """
    for root in map(Path, folder_paths.get_folder_paths(DIFFUSERS)):
        # One level is enough for pipelines and for folders by author; a full search of a network drive would
        # take minutes.
        for path in sorted((*root.glob("*/"), *root.glob("*/*/"))) if os.path.isdir(root) else ():
            if _is_model_folder(path):
                yield path.relative_to(root).as_posix(), path


def _is_model_folder(path: Path) -> bool:
    """Whether a folder is a whole diffusers pipeline or holds split files.

    A component of a pipeline is not one.
    """
    if os.path.isfile(path / "model_index.json"):
        return True
    try:
        # A component of a pipeline has a config.json next to its weights; split files have none.
        return any(path.glob("*.safetensors")) and not os.path.isfile(path / "config.json")
    except OSError:
        return False


def _encoder_at(path: Path) -> Path:
    """The folder of a text encoder's file if it has a ``config.json``; otherwise the file itself."""
    # A broken link counts too: the folder is then listed and its error says what is missing.
    return path.parent if os.path.lexists(path.parent / "config.json") else path


def _stamp(path: Path) -> Stamp:
    """A value for the file or folder ``path``; when it changes, the path has to be checked again."""
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
    """Path, time of change in ns and size of one file; time and size are 0 if it cannot be read."""
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
    """Check a text encoder: why ``path`` cannot be loaded ("" if it can), and whether it is a faulty Gemma.

    A faulty Gemma is a folder that is one but cannot be loaded.
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
    """The message of the error that ``check`` raises, "" if it raises none.

    No error is passed on, because one bad file must not stop the loading of the nodes.
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
    """The message of ``error`` with the file's name in place of its path."""
    return _encodable(str(error).replace(str(path), path.name))


def _encodable(text: str) -> str:
    """A copy of ``text`` in which bytes of file names that are no UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
