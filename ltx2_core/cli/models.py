"""The command ``ltx2 models``: lists, downloads and checks released files, and exports the tiny set."""

from __future__ import annotations

import filecmp
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from .options import PathType

if TYPE_CHECKING:
    from ..released.checks import Checked
    from ..released.hub import Published
    from ..released.table import ReleasedFile

_FOLDER: Final = click.option(
    "--dir",
    "folder",
    type=PathType(path_type=Path, file_okay=False),
    help="Folder of models in the layout of ComfyUI/models.  [default: those of LTX2_MODELS, then "
    "~/.cache/ltx2/models]",
)


@click.group()
def models() -> None:
    """Released models: list, download and check them; and the tiny set that comes with the package."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_models(as_json: bool) -> None:
    """List released models and files: names, sizes, where they come from and whether they are here.

    A model is several files that together make clips, for ltx2 generate --model NAME.
    """
    from ..released.folders import found, model_folders
    from ..released.table import released_files, released_models

    folders = model_folders()
    present = {file.id: found(file, folders) for file in released_files().values()}
    if as_json:
        click.echo(json.dumps(_as_json(present), indent=2))
        return
    for model in released_models().values():
        missing = [file.id for file in model.files if present[file.id] is None]
        state = "complete" if not missing else f"missing: {', '.join(missing)}"
        click.echo(f"{model.name:24}{_gigabytes(_sum(model.files))}  {state}")
    click.echo()
    for file in released_files().values():
        mark = "here" if present[file.id] is not None else ""
        click.echo(
            f"{file.id:44}{'/'.join(file.generations):8}{_gigabytes(file.bytes)}  {mark:5}"
            f"{file.repository}/{file.path} -> {file.folder}"
        )


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_FOLDER
def get(names: tuple[str, ...], folder: Path | None) -> None:
    """Download released models or single files by their names in ltx2 models list.

    A download that was interrupted is resumed by the same command, and files that are here are not downloaded
    again. HF_TOKEN is the token of an account, HF_ENDPOINT a mirror.
    """
    from ..released.checks import check
    from ..released.folders import model_folders
    from ..released.hub import check_room, download, published
    from ..released.table import files_of

    files = list(dict.fromkeys(file for name in names for file in files_of(name)))
    target = model_folders()[0] if folder is None else folder
    about = {file: published(file) for file in files}
    # One that was written over, or cut, is downloaded again. Its hash is not computed, which takes minutes.
    wanted = [file for file in files if check(file, (target,), _size_alone(about[file])).state != "ok"]
    check_room(wanted, target, [about[file].bytes for file in wanted])
    for file in wanted:
        click.echo(f"{file.id}: {file.repository}/{file.path}", err=True)
        download(file, about[file], target)
        checked = check(file, (target,), _size_alone(about[file]))
        if checked.state != "ok":
            raise OSError(f"{checked.path} was downloaded and is {checked.state}: {checked.why}")
    for file in files:
        click.echo(target / file.folder / file.name)


@models.command("check")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@_FOLDER
@click.option(
    "--sha256",
    "whole",
    is_flag=True,
    help="Ask the hub for hashes, or without it the table, and read whole files to compare them.",
)
def check_models(names: tuple[str, ...], folder: Path | None, whole: bool) -> None:
    """Check released files: missing, damaged, of another generation, or not the released file.

    Without NAME all that are here are checked. Exit code 1 if something is wrong.
    """
    from ..released.checks import check
    from ..released.folders import model_folders
    from ..released.table import files_of, released_files

    folders = model_folders() if folder is None else (folder,)
    files = [file for name in names for file in files_of(name)] or list(released_files().values())
    results = []
    for file in dict.fromkeys(files):
        result = check(file, folders)
        if whole and result.state == "ok":
            result = check(file, folders, _known(file))
        # Of the whole table most files are missing on purpose.
        if names or result.state != "missing":
            results.append(result)
            click.echo(_told(result))
    if not results:
        click.echo(f"no released file in {', '.join(map(str, folders))}")
    if any(result.state != "ok" for result in results):
        raise SystemExit(1)


def _told(result: Checked) -> str:
    where = "" if result.path is None else f"  {result.path}"
    return f"{result.state:12}{result.file.id}{where}{': ' if result.why else ''}{result.why}"


def _known(file: ReleasedFile) -> Published:
    """What the hub says of a file, or else the table. Raises OSError if the table has no hash either."""
    from ..released.hub import in_table, published

    try:
        return published(file)
    except OSError as error:
        if file.sha256 is None:
            raise
        click.echo(f"{error}: compared with the table of this version", err=True)
        return in_table(file)


def _size_alone(about: Published) -> Published:
    from ..released.hub import Published

    return Published(bytes=about.bytes)


def _sum(files: tuple[ReleasedFile, ...]) -> int | None:
    """Bytes of ``files`` together; None if the size of one is not known."""
    sizes = [file.bytes for file in files]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _gigabytes(size: int | None) -> str:
    return f"{'?':>8}   " if size is None else f"{size / 1e9:8.2f} GB"


def _as_json(present: dict[str, Path | None]) -> dict[str, object]:
    from dataclasses import asdict

    from ..released.table import released_files, released_models

    return {
        "models": {
            model.name: {"files": [file.id for file in model.files], "distilled": model.distilled}
            for model in released_models().values()
        },
        "files": [
            {**asdict(file), "local": None if present[file.id] is None else str(present[file.id])}
            for file in released_files().values()
        ],
    }


@models.command()
@click.argument("folder", metavar="DIR", type=PathType(path_type=Path))
@click.option(
    "--generation",
    type=click.Choice(["2.3", "2.5"]),
    default="2.3",
    show_default=True,
    help="LTX-2 generation of the set. That of 2.5 also has a diffusion video VAE and a duration head.",
)
@click.option("--force", is_flag=True, help="Replace files of the same names that differ.")
def export(folder: Path, generation: str, force: bool) -> None:
    """Write the tiny set below DIR, such as ComfyUI/models: each file into the folder of its kind.

    It is a real LTX-2, tiny and trained on a world of coloured shapes, in the layout of the released files.
    """
    import tempfile

    from ..tiny import embedded_dir
    from ..tiny.continued import write_embedded_25

    if generation == "2.3":
        _copy(embedded_dir(), folder, force)
        return
    # The set of 2.5 is put together from that of 2.3 and what differs from it.
    with tempfile.TemporaryDirectory(prefix="ltx2-tiny-") as temporary:
        write_embedded_25(Path(temporary))
        _copy(Path(temporary), folder, force)


def _copy(source: Path, folder: Path, force: bool) -> None:
    """Copy all files below ``source`` to the same places below ``folder``, and print their paths.

    Raises FileExistsError if other files of these names exist, unless ``force`` is set, and OSError that
    names ``folder`` if it cannot be written.
    """
    from ..media.atomic import replacing

    files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    different = [
        name
        for name in files
        if (folder / name).exists() and not filecmp.cmp(source / name, folder / name, shallow=False)
    ]
    if different and not force:
        raise FileExistsError(
            f"{', '.join(str(folder / name) for name in different)}: other files of these names exist; "
            "choose another folder, or --force to replace them"
        )
    try:
        for name in files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as temporary:
                shutil.copyfile(source / name, temporary)
                temporary.chmod(0o644)
            click.echo(target)
    except OSError as error:
        advice = f"{error.strerror}; choose another folder"
        raise OSError(error.errno, advice, str(folder)) from error
