"""The command ``ltx2 models``: exports the model set that comes with the package."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

import click

from .options import PathType


@click.group()
def models() -> None:
    """The model set that comes with the package."""


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
