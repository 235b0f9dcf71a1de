"""Refuses an output that is one of the files the run reads, which saving would replace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ..media import Destination
from ..media.exr import SUFFIX
from ..media.stills import SUFFIXES
from ..run.options import by_name
from ..storage.files import ParsedJson
from .image_options import image_file, parse_control
from .options import Chosen
from .values import loras_of

NamedFile = tuple[str, str | Path]
"""What a file is in the words of the user, such as "--video", and its path."""

_WRITTEN: Final = frozenset({"output", "state"})
"""Options with a path that the run writes to."""
_LORAS: Final = ("loras", "stage2_loras", "detail_lora")
_IMAGES: Final = {"image": "image", "images": "image", "references": "control video"}
_RECORDED: Final = {**_IMAGES, "audio": "audio", "reference_audio": "reference audio"}
"""Fields of a request that name files -> what such a file is."""


def check_apart(outputs: Iterable[Path], files: Iterable[NamedFile]) -> None:
    """Raise ValueError if one of ``outputs`` is one of ``files``, by whatever name, link or hard link.

    The images of a folder are among its files.
    """
    named = list(files)
    # A name without a file replaces nothing.
    for output in filter(Path.exists, outputs):
        is_image = output.suffix.lower() in SUFFIXES | {SUFFIX}
        for what, file in named:
            if _is_same(output, Path(file)) or (is_image and _is_same(output, Path(file) / output.name)):
                raise ValueError(
                    f"output={output} is {what} {file}, and a run never replaces a file that it reads: give "
                    "another name"
                )


def written(destination: Destination) -> tuple[Path, ...]:
    """The file that a clip at ``destination`` replaces if it exists; none for stdout and numbered images."""
    whole = not destination.is_images or destination.is_still
    return (destination.path,) if whole and not destination.is_stdout else ()


def named_files(chosen: Chosen) -> Iterator[NamedFile]:
    """Yield every file and folder that the options of a call name, with the option.

    Raises ValueError for text that cannot be parsed.
    """
    explicit = chosen.explicit
    for name, value in explicit.items():
        option = by_name(name)
        if option.kind == "path" and name not in _WRITTEN:
            yield from ((option.flag, path) for path in (value if option.multiple else (value,)))
    for name in ("image", "images"):
        flag = by_name(name).flag
        yield from ((flag, image_file(flag, text)) for text in explicit.get(name, ()))
    for text in explicit.get("references", ()):
        yield by_name("references").flag, str(parse_control(text).source)
    for name in _LORAS:
        yield from ((by_name(name).flag, str(lora.path)) for lora in loras_of(chosen, name))
    prompts = explicit.get("prompts", "")
    if prompts.startswith("@"):
        yield by_name("prompts").flag, prompts[1:]


def recorded_files(settings: ParsedJson | None, chosen: Chosen) -> Iterator[NamedFile]:
    """Yield the files in the settings of ``--from-file`` that no option of the call replaces.

    ``settings`` is None without that option.
    """
    if settings is None:
        return
    replaced = {*chosen.explicit}
    # Both options of images replace the recorded ones.
    if replaced & {"image", "images"}:
        replaced |= {"image", "images"}
    records: list[tuple[str, str]] = []
    if "source" not in replaced and settings.get("source_file"):
        records.append(("the video", settings["source_file"]["path"]))
    if "images" not in replaced:
        records += [("the image", one["path"]) for one in settings.get("keyframe_files", ()) if one]
    for field, what in _RECORDED.items():
        value = settings["request"].get(field)
        if field in replaced or not value:
            continue
        names = [entry["source"] for entry in value] if isinstance(value, list) else [value]
        for name in names:
            record = settings.get("inputs", {}).get(name) if isinstance(name, str) else None
            if record is not None:
                records += [(f"the {what}", name), (f"the {what}", record["path"])]
    yield from ((f"{what} of {chosen['from_file']},", path) for what, path in records)


def _is_same(output: Path, file: Path) -> bool:
    try:
        return output.samefile(file)
    # Names that no file can have; other checks name them.
    except (OSError, ValueError):
        return False
