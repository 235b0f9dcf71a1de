"""The command ``ltx2 models``: exports the model set that comes with the package."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

import click


@click.group()
def models() -> None:
    """The model set that comes with the package."""


@models.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace files of the same names that differ.")
def export(folder: Path, force: bool) -> None:
    """Copy the tiny set below DIR, such as ComfyUI/models: each file into the folder of its kind.

    It is a real LTX-2, tiny and trained on a world of coloured shapes, in the layout of the released files.
    """
    from ..media.atomic import replacing
    from ..tiny import embedded_dir

    source = embedded_dir()
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
