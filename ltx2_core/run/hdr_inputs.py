"""Reads the EXR images of a request, and checks that they fit the colour space of the request.

Letters: H W pixel rows and columns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from os import PathLike, fspath
from pathlib import Path

from torch import Tensor

from ..media.exr import exr_primaries, is_exr, is_exr_folder, open_exr, read_exr
from ..media.hdr_space import HDR_SPACES
from ..media.images import BLACK, Colour, FitMode, ImageSource, fit_image, load_image
from ..shapes import ClipPlan
from ..types import Numerics
from .request import Request

_log = logging.getLogger(__name__)


def check_hdr(request: Request) -> None:
    """Check the option ``hdr`` of a request, the colour space of its EXR images, before any work.

    Raises ValueError for EXR images in a request without ``hdr``. For a request with ``hdr``, raises it for
    EXR images next to SDR ones, for a folder in the place of an image, for EXR images with another ``fit``
    than "crop", for a clip of audio alone, and if the library OpenEXR is missing. Warns in the log of SDR
    images, and of an EXR image that states other primaries than those of ``hdr``.
    """
    hdr, sources = request.inputs.hdr, tuple(_sources(request))
    bright = [one for one in sources if is_exr(one) or is_exr_folder(one)]
    plain = [one for one in sources if one not in bright]
    if hdr is None:
        if bright:
            raise ValueError(
                f"{bright[0]} is EXR, whose light is not limited to white: say what colours it has with hdr "
                f"(--hdr), one of {', '.join(HDR_SPACES)}"
            )
        return
    open_exr()
    if not request.size.video:
        raise ValueError(f"hdr={hdr} has no effect on audio alone: leave it out")
    if bright and plain:
        raise ValueError(
            f"hdr={hdr}: {bright[0]} is EXR and {plain[0]} is not: give all images of a run as EXR, or none"
        )
    stills = (request.inputs.image.source, *(image.source for image in request.inputs.images))
    folder = next((one for one in stills if is_exr_folder(one)), None)
    if folder is not None:
        raise ValueError(
            f"{folder} is a folder of EXR images: give one image of it, or the folder as a reference "
            "(--control), or as the source of ltx2 retake"
        )
    if bright and request.inputs.fit != "crop":
        raise ValueError(f"fit={request.inputs.fit} works on 8-bit colours: use crop with EXR images")
    if plain:
        _log.warning(
            "hdr=%s: %s is SDR, and its pixels are taken for codes of ACEScct; give it as EXR for its light",
            *(hdr, plain[0]),
        )
    for one in bright:
        _warn_of_primaries(Path(one), hdr)


def _sources(request: Request) -> Iterator[str]:
    """Yield the paths of the images and references of a request.

    For an image in memory its type's name is yielded, such as "Tensor".
    """
    inputs = request.inputs
    each: list[object] = [image.source for image in inputs.images]
    each += [reference.source for reference in inputs.references]
    if inputs.image.source is not None:
        each.insert(0, inputs.image.source)
    for one in each:
        yield fspath(one) if isinstance(one, str | PathLike) else type(one).__name__


def _warn_of_primaries(path: Path, hdr: str) -> None:
    """Log a warning if an EXR image, or the first of a folder, states other primaries than ``hdr`` has."""
    if path.is_dir():
        path = min(one for one in path.iterdir() if is_exr(one))
    if not path.is_file():
        # Reading it says what is wrong.
        return
    stated, expected = exr_primaries(path), HDR_SPACES[hdr].primaries
    if stated not in (None, expected):
        _log.warning("%s states the primaries of %s, and hdr=%s those of %s", path, stated, hdr, expected)


def read_image(source: ImageSource, *, background: Colour = BLACK) -> Tensor:
    """Load an image as (1, 3, H, W): an EXR image with the values of its file, others in [0, 1].

    The alpha of an EXR image is dropped; transparent pixels of other images are blended with ``background``,
    RGB in [0, 1].
    """
    if isinstance(source, str | PathLike) and is_exr(source):
        return read_exr(source)
    return load_image(source, background=background)


def exr_codes(light: Tensor, hdr: str, clip: ClipPlan, numerics: Numerics) -> Tensor:
    """Fit an EXR image ``light`` (1, 3, H, W) of the colour space ``hdr`` to the size of ``clip``.

    The image is scaled in linear light, and cropped as the official pipelines or ComfyUI do, whichever
    ``numerics`` names. Returns log codes (1, 3, height, width) in [0, 1], which the video VAE takes.
    """
    mode: FitMode = "comfy" if numerics.is_comfy else "official"
    return HDR_SPACES[hdr].to_codes(fit_image(light, clip.width, clip.height, mode=mode))
