"""The size of a clip that begins with an image, where the command line names none: the shape of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..run.flat_options import RequestFields
    from ..run.recipes import Recipe
    from .options import Chosen


def size_by_image(chosen: Chosen, fields: RequestFields, recipe: Recipe) -> None:
    """Give a request the proportions of its image if the command line names no size, and print a line on it.

    ``fields`` are the keywords of the request; width and height are set in them. The image is the first
    frame, or without one the first of the images that have a frame. The clip has about as many pixels as one
    of the size in ``recipe``, on the grid of 32 pixels, of 64 with two stages. Nothing is changed if a width
    or height is set, without an image, and if the image cannot be read, which the checks of the request
    report later. The line is part of the plan of ``--dry-run``, else it is printed on stderr.
    """
    note = _sized(fields, recipe)
    if note is not None:
        # In a run stdout holds the path of the file alone.
        click.echo(note, err=not chosen["dry_run"])


def _sized(fields: RequestFields, recipe: Recipe) -> str | None:
    source = _image_of(fields)
    if source is None or fields.get("width") is not None or fields.get("height") is not None:
        return None
    # Imported late, because the help of the command needs neither torch nor Pillow.
    from ..run.hdr_inputs import read_image
    from ..shapes import SPATIAL_SCALE, size_like

    try:
        rows, columns = read_image(source).shape[-2:]
    except (ValueError, OSError):
        return None
    # The DFR pipeline samples two stages, which the request decides later.
    stages = 2 if fields.get("pipeline_kind") is not None else fields.get("stages", 1)
    width, height = size_like(columns, rows, recipe.width * recipe.height, SPATIAL_SCALE * stages)
    fields["width"], fields["height"] = width, height
    return (
        f"size      {width}x{height}, the shape of {source} ({columns}x{rows}) with about the pixels of "
        f"{recipe.width}x{recipe.height}, {recipe.reason}; --width and --height set another"
    )


def _image_of(fields: Mapping[str, Any]) -> Any:
    """The image that decides the size: the first frame, else the first image with a frame; None without."""
    if fields.get("image") is not None:
        return fields["image"]
    images = fields.get("images") or ()
    return images[0].source if images else None
