"""Images from files or memory, their fit to the size of a clip, and conversion of frames to bytes.

Letters: N images or frames, H W pixel rows and columns. Images are RGB float32 in [0, 1], channels first.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageColor, ImageOps, UnidentifiedImageError
from torch import Tensor

from .bright_files import refuse_bright, refuse_exr, refuse_unreadable
from .container import check_file, check_pixels

ITU_709 = 1
"""FFmpeg's number for the colour primaries, the transfer function and the matrix of BT.709."""

ImageSource: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor"
Colour: TypeAlias = "tuple[float, float, float]"
"""RGB in [0, 1]."""
BLACK: Colour = (0.0, 0.0, 0.0)
FitMode: TypeAlias = Literal["official", "comfy", "pad", "stretch"]
SourceFit: TypeAlias = Literal["own", "official", "comfy"]
"""A :data:`FitMode`, or "own": the clip has the size of its source, and the model sees it padded."""


MOST_COVERED = 16
"""How many times the pixels of the result a frame may have after scaling; larger ones are cropped before."""


def parse_colour(text: str) -> Colour:
    """Parse a CSS colour, such as white or #00ff00, to RGB in [0, 1]. Raises ValueError for other text."""
    try:
        # Pillow returns a fourth value for colours with alpha, which a background cannot have.
        red, green, blue = ImageColor.getrgb(text)[:3]
        if max(red, green, blue) > 255:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{text!r} is not a colour: write one such as white, #00ff00 or rgb(0, 255, 0)"
        ) from None
    return red / 255, green / 255, blue / 255


def load_image(source: ImageSource, *, background: Colour = BLACK) -> Tensor:
    """Load one image as (1, 3, H, W) float32 in [0, 1].

    A path or a Pillow image is rotated by its EXIF orientation, and of an animation the first frame is
    loaded. An array is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), a tensor (C, H, W) or (1, C, H, W), both
    uint8 or float in [0, 1]. Transparent pixels are blended with ``background``, RGB in [0, 1]. Colours with
    an ICC profile become sRGB.

    Raises FileNotFoundError for a missing file, ValueError for a file that is not a readable image, for HDR
    images, and for arrays and tensors of another shape or range.
    """
    if isinstance(source, Tensor):
        return _from_channels_first(source, background)
    if isinstance(source, np.ndarray):
        if source.ndim not in (2, 3):
            raise ValueError(
                f"an image array has 2 or 3 axes, (H, W) or (H, W, C); got shape {tuple(source.shape)}"
            )
        # The array is copied below, because torch refuses negative strides and warns of read-only memory.
        array = source[:, :, None] if source.ndim == 2 else source
        return _from_channels_first(torch.from_numpy(np.array(array)).permute(2, 0, 1), background)
    if isinstance(source, Image.Image):
        return _from_pillow(source, background)
    path = Path(source)
    check_file(path, "image")
    refuse_exr(path)
    try:
        # The limit below replaces that of Pillow, whose warning would come after the image is decoded.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                check_pixels(path, *image.size)
                refuse_bright(path, image)
                return _from_pillow(image, background)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        refuse_unreadable(path)
        raise ValueError(f"cannot read {path} as an image ({error}); give a PNG, JPEG or WebP") from error


def fit_image(frames: Tensor, width: int, height: int, *, mode: FitMode = "official") -> Tensor:
    """Bring frames (N, 3, H, W) to (N, 3, height, width), by one of four modes.

    ``official`` scales the frame until it covers the size and then crops, as the LTX-2 repository does;
    ``comfy`` crops to the aspect ratio and then scales to the exact size, as ComfyUI does: both bilinear
    without antialiasing, which preserves the value range. ``pad`` scales the frame until it fits into the
    size and adds black borders, ``stretch`` scales to the exact size, as ai-toolkit does: both by Pillow's
    Lanczos filter on 8-bit colours, for frames in [0, 1]. Frames that have the size already are returned
    unchanged. Raises ValueError for another mode, shape or a size below 1.
    """
    if width < 1 or height < 1:
        raise ValueError(f"the size to fit must be positive; got {width}x{height}")
    if frames.ndim != 4:
        raise ValueError(f"frames must be (N, 3, H, W); got shape {tuple(frames.shape)}")
    # Equal sizes are not resampled, so that the pixels stay as they are.
    if frames.shape[-2:] == (height, width):
        return frames
    if mode == "official":
        return _cover_then_crop(frames, width, height)
    if mode == "comfy":
        return _crop_then_scale(frames, width, height)
    if mode == "stretch":
        return _lanczos(frames, width, height)
    if mode == "pad":
        return _contain_then_pad(frames, width, height)
    raise ValueError(f"mode must be 'official', 'comfy', 'pad' or 'stretch'; got {mode!r}")


def pad_image(frames: Tensor, width: int, height: int, *, mirrored: bool = False) -> Tensor:
    """Pad frames (N, 3, H, W) at the right and below by repeating the last column and row.

    With ``mirrored`` the frames are reflected there instead, if they are wider and higher than what is added.
    The result is (N, 3, height, width). Raises ValueError for a size that is smaller than the frames.
    """
    rows, columns = frames.shape[-2:]
    if height < rows or width < columns:
        raise ValueError(f"frames of {columns}x{rows} cannot be padded to {width}x{height}")
    if (rows, columns) == (height, width):
        return frames
    # Repeated pixels are closer to the training data than a black bar, which the model may continue.
    missing = (0, width - columns, 0, height - rows)
    reflected = mirrored and missing[1] < columns and missing[3] < rows
    return F.pad(frames, missing, mode="reflect" if reflected else "replicate")


def as_frames(frames: Tensor | NDArray[Any]) -> Tensor:
    """Convert a tensor (N, 3, H, W) or an array (N, H, W, 3) to float frames (N, 3, H, W) in [0, 1].

    Values are uint8, or float in [0, 1]. Raises ValueError for an array of another shape.
    """
    if isinstance(frames, np.ndarray):
        if frames.ndim != 4 or frames.shape[3] != 3:
            raise ValueError(f"frames of an array are (N, H, W, 3); got {frames.shape}")
        # Arrays have channels last, as imageio, OpenCV and ComfyUI return them.
        frames = rearrange(torch.from_numpy(np.ascontiguousarray(frames)), "n h w c -> n c h w")
    return frames.float() / 255.0 if frames.dtype == torch.uint8 else frames


def to_signed(frames: Tensor) -> Tensor:
    """Convert frames of any shape, uint8 or float in [0, 1], to float in [-1, 1] for the networks."""
    if frames.dtype == torch.uint8:
        # As the reference does: 0 becomes -1 and 255 becomes 1, and no byte becomes 0.
        return frames.float() / 127.5 - 1.0
    return frames * 2.0 - 1.0


def to_bytes(frames: Tensor, *, first: int = 0) -> Tensor:
    """Convert frames (N, 3, H, W) in [-1, 1] to uint8 on the same device; values outside are clipped.

    uint8 frames are returned unchanged. ``first`` is the number of the first frame in the clip, for the error
    message. Raises ValueError for NaN or infinite values, and for other dtypes.
    """
    converted, finite = bytes_and_finite(frames)
    check_finite(finite, first=first)
    return converted


def bytes_and_finite(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Convert frames as :func:`to_bytes` does, without waiting for a GPU.

    Returns the converted frames, and for each frame whether all of its values were finite, (N,) bool; of
    frames that were uint8 nothing is said, (0,).
    """
    if frames.dtype == torch.uint8:
        return frames, torch.ones(0, dtype=torch.bool, device=frames.device)
    if not frames.is_floating_point():
        raise ValueError(f"frames are uint8 or float in [-1, 1]; got {frames.dtype}")
    converted = torch.empty(frames.shape, dtype=torch.uint8, device=frames.device)
    finite = []
    # Frame by frame, so that only one float32 copy of a frame exists at a time.
    for frame, bytes_ in zip(frames, converted, strict=True):
        # NaN and infinity appear in the minimum or maximum, so no mask of the whole frame is needed.
        finite.append(torch.stack(torch.aminmax(frame)).isfinite().all())
        bytes_.copy_(frame.to(torch.float32, copy=True).add_(1.0).mul_(127.5).round_().clamp_(0.0, 255.0))
    none = torch.ones(0, dtype=torch.bool, device=frames.device)
    return converted, torch.stack(finite) if finite else none


def check_finite(finite: Tensor, *, first: int) -> None:
    """Raise ValueError unless all of ``finite`` (N,) is True; frame ``first`` of the clip is the first."""
    # One transfer for all frames, because each read of a value synchronises with the GPU.
    for index, good in enumerate(finite.tolist()):
        if not good:
            raise ValueError(f"frame {first + index} holds NaN or infinite values; nothing was saved")


def _from_pillow(image: Image.Image, background: Colour) -> Tensor:
    # Cameras store photographs sideways and say so in a tag.
    upright = _as_srgb(ImageOps.exif_transpose(image))
    if upright.mode == "F" and np.asarray(upright).max() > 255:
        # Pillow would clip them when it converts the image to RGB.
        raise ValueError("the image holds numbers above 255, its white: give a tensor of floats in [0, 1]")
    if upright.mode.startswith("I"):
        # Pillow clips 16-bit grey to 255 when it converts to RGB, so it is scaled from 65535 here.
        grey = np.asarray(upright).astype(np.float32) / 65535.0
        return _from_channels_first(torch.from_numpy(grey)[None].clamp(0.0, 1.0), background)
    # A palette or an RGB PNG may name one colour as transparent instead of having an alpha channel.
    has_alpha = "A" in upright.getbands() or "transparency" in upright.info
    pixels = np.array(upright.convert("RGBA" if has_alpha else "RGB"))
    return _from_channels_first(torch.from_numpy(pixels).permute(2, 0, 1), background)


def _as_srgb(image: Image.Image) -> Image.Image:
    """Convert the colours of an image to sRGB if its ICC profile is another one.

    Colours of palettes and 16-bit grey, and those with a damaged profile, are not converted.
    """
    data = image.info.get("icc_profile")
    if not data or image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return image
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        # A conversion to the same profile would only round the colours.
        if "sRGB" in ImageCms.getProfileDescription(profile):
            return image
        alpha = image.getchannel("A") if image.mode.endswith("A") else None
        opaque = image if alpha is None else image.convert(image.mode[:-1])
        converted = ImageCms.profileToProfile(
            opaque, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return image
    assert converted is not None
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _from_channels_first(image: Tensor, background: Colour) -> Tensor:
    """Convert a tensor (C, H, W) or (1, C, H, W), C of 1, 3 or 4, to (1, 3, H, W) float32 in [0, 1].

    Transparent pixels are blended with ``background``, RGB in [0, 1].
    """
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[0] != 1 or image.shape[1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"an image is not empty and has 1, 3 or 4 channels; got (N, C, H, W) {tuple(image.shape)}"
        )
    if image.dtype == torch.uint8:
        image = image.float() / 255.0
    elif image.is_floating_point():
        image = image.float()
        low, high = image.min().item(), image.max().item()
        # Rounding in an earlier resize may exceed the range slightly; anything more is a wrong range.
        if not (low >= -1e-3 and high <= 1.0 + 1e-3):
            raise ValueError(f"float images are in [0, 1]; got values from {low:.4g} to {high:.4g}")
        image = image.clamp(0.0, 1.0)
    else:
        raise ValueError(f"images are uint8 or float in [0, 1]; got {image.dtype}")
    if image.shape[1] == 4:
        colour = torch.tensor(background, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
        return (image[:, :3] * image[:, 3:] + colour * (1 - image[:, 3:])).contiguous()
    return image.expand(-1, 3, -1, -1).contiguous()


def _cover_then_crop(frames: Tensor, width: int, height: int) -> Tensor:
    rows, columns = frames.shape[-2:]
    scale = max(height / rows, width / columns)
    if rows * columns * scale**2 > MOST_COVERED * width * height:
        # A strip of 60000x2 would take gigabytes before it is cropped.
        frames = _centre(frames, math.ceil(width / scale) + 2, math.ceil(height / scale) + 2)
        rows, columns = frames.shape[-2:]
    # Rounded up, since a side that is one pixel short could not be cropped to size.
    size = (math.ceil(rows * scale), math.ceil(columns * scale))
    # Without antialiasing, as in the LTX-2 repository.
    scaled = F.interpolate(frames, size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return scaled[..., top : top + height, left : left + width]


def _centre(frames: Tensor, width: int, height: int) -> Tensor:
    """The middle of frames (N, 3, H, W): at most ``height`` rows and ``width`` columns."""
    top, left = (
        max(0, (size - target) // 2) for size, target in zip(frames.shape[-2:], (height, width), strict=True)
    )
    return frames[..., top : top + height, left : left + width]


def _crop_then_scale(frames: Tensor, width: int, height: int) -> Tensor:
    rows, columns = frames.shape[-2:]
    aspect, target = columns / rows, width / height
    # The order of operations is that of ComfyUI's common_upscale, since another one rounds differently.
    top = round((rows - rows * (aspect / target)) / 2) if aspect < target else 0
    left = round((columns - columns * (target / aspect)) / 2) if aspect > target else 0
    # At least one row and one column must remain, whatever the proportions.
    top, left = min(top, (rows - 1) // 2), min(left, (columns - 1) // 2)
    cropped = frames[..., top : rows - top, left : columns - left]
    return F.interpolate(cropped, size=(height, width), mode="bilinear", align_corners=False)


def _lanczos(frames: Tensor, width: int, height: int) -> Tensor:
    """Scale frames (N, 3, H, W) in [0, 1] by Pillow's Lanczos filter, which works on 8-bit colours."""
    scaled = [
        np.asarray(Image.fromarray(to_bytes_hwc(frame)).resize((width, height), Image.Resampling.LANCZOS))
        for frame in (frames * 255.0).round().clamp(0, 255).to(torch.uint8)
    ]
    return rearrange(torch.from_numpy(np.stack(scaled)), "n h w c -> n c h w").float() / 255.0


def _contain_then_pad(frames: Tensor, width: int, height: int) -> Tensor:
    rows, columns = frames.shape[-2:]
    scale = min(height / rows, width / columns)
    inner = max(1, round(columns * scale)), max(1, round(rows * scale))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    borders = (left, width - inner[0] - left, top, height - inner[1] - top)
    # An image that fits without scaling is not resampled.
    scaled = frames if inner == (columns, rows) else _lanczos(frames, *inner)
    return F.pad(scaled, borders)


def to_bytes_hwc(frame: Tensor) -> NDArray[np.uint8]:
    """Convert a frame (3, H, W) uint8 to a contiguous array (H, W, 3), the layout that PyAV takes."""
    return np.ascontiguousarray(rearrange(frame.cpu(), "c h w -> h w c").numpy())


def to_words_hwc(frame: Tensor, number: int = 0) -> NDArray[np.uint16]:
    """Convert a frame (3, H, W), uint8 or float in [-1, 1], to a contiguous uint16 array (H, W, 3).

    Black becomes 0 and white 65535. Float values outside [-1, 1] are clipped. ``number`` is that of the frame
    in the clip, for the error message. Raises ValueError for NaN or infinite values, and for other dtypes.
    """
    if frame.dtype == torch.uint8:
        # 255 becomes 65535.
        words: NDArray[np.uint16] = to_bytes_hwc(frame).astype(np.uint16) * np.uint16(257)
        return words
    if not frame.is_floating_point():
        raise ValueError(f"frames are uint8 or float in [-1, 1]; got {frame.dtype}")
    # In float64, because adding 1 in float32 drops bits of small values, which decide how a level is rounded.
    levels = (frame.detach().cpu().double() + 1.0) * 32767.5
    if not torch.stack(torch.aminmax(levels)).isfinite().all():
        raise ValueError(f"frame {number} holds NaN or infinite values; nothing was saved")
    rounded = rearrange(levels.round().clamp(0.0, 65535.0), "c h w -> h w c").numpy()
    return np.ascontiguousarray(rounded.astype(np.uint16))
