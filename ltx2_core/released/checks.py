"""Checks released files on disk: missing, damaged, of another generation, or another file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ..loading.describe import describe
from ..loading.file_set import model_name
from .folders import found
from .hub import Published, file_sha256
from .table import ReleasedFile

State: TypeAlias = Literal["ok", "missing", "damaged", "mismatched", "different"]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What became of a file: its state, its path (None if it is missing) and why it is not "ok"."""

    file: ReleasedFile
    state: State
    path: Path | None = None
    why: str = ""


def check(file: ReleasedFile, folders: Sequence[Path], known: Published | None = None) -> Checked:
    """Check a file in the first of ``folders`` that has it; only its header is read.

    "damaged" is a file that cannot be loaded, "mismatched" one of another generation of LTX-2 than its name
    says, and "different" one of another size. With ``known``, what the hub or the table says, its size
    counts, and the whole file is read and compared with the published sha256.
    """
    path = found(file, folders)
    if path is None:
        return Checked(file=file, state="missing")
    if file.kind == "tokenizer":
        # It has no header of tensors; the text encoder beside it says what is wrong with it.
        return _as_published(file, path, known)
    try:
        report = describe(path)
        problems = [part["problem"] for part in report["components"] if part.get("problem")]
        if report.get("lora", {}).get("problem"):
            problems.append(report["lora"]["problem"])
    except (ValueError, OSError) as error:
        return Checked(file=file, state="damaged", path=path, why=str(error))
    if problems:
        return Checked(file=file, state="damaged", path=path, why=str(problems[0]))
    generation = report["generation"]
    if generation is not None and not _fits(generation, file.generations):
        those = " and ".join(map(model_name, file.generations))
        why = f"it belongs to {model_name(generation)}, and {file.id} to {those}"
        return Checked(file=file, state="mismatched", path=path, why=why)
    return _as_published(file, path, known)


def _as_published(file: ReleasedFile, path: Path, known: Published | None) -> Checked:
    """Check the size of a file, and its hash if ``known`` has one."""
    size, wanted = path.stat().st_size, known.bytes if known else file.bytes if file.exact else None
    if wanted is not None and size != wanted:
        why = f"it has {size} bytes, and the released file {wanted}"
        return Checked(file=file, state="different", path=path, why=why)
    if known is not None and known.sha256 is not None and file_sha256(path) != known.sha256:
        return Checked(file=file, state="different", path=path, why="its sha256 is not the published one")
    return Checked(file=file, state="ok", path=path)


def _fits(found_generation: str, generations: tuple[str, ...]) -> bool:
    # 2.5 has the video and audio autoencoders of 2.3, which tell no more than that.
    return found_generation in generations or (found_generation == "2.3" and "2.5" in generations)
