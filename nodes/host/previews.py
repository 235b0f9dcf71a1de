"""Live previews while an audio-video latent is sampled: a frame and, below it, the loudness of the audio.

ComfyUI's own previewer cannot read the packed latent. A wrapper around the sampling run unpacks the predicted
clean latent and passes an image to ComfyUI's progress bar, which displays it on the node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import latent_preview
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy.patcher_extension import WrappersMP
from PIL import Image
from torch import Tensor

from ...ltx2_core.loading import Component
from ...ltx2_core.sampling.previews import Previews, TimeShare, false_colours, fit_previews, relative_levels
from ...ltx2_core.video_vae import VideoDecoder, VideoEncoder
from .weights import read_weights

log = logging.getLogger(__name__)
KEY = "ltx2_av_previews"
SHARE = 0.02
"""The largest share of the time of a run that previews take; if they are slower, some steps have none."""
TINY_DECODERS = ("taeltx_2", "taeltx2")
"""Prefixes of the file names of tiny decoders for these latents, in the host's folder ``vae_approx``."""

_SMALL = 128 * 2**20
"""Most bytes of an autoencoder that is loaded to fit the colours of previews."""
_CELL, _STRIP = 8, 24
"""Pixels of a latent cell, and height of the strip for the audio."""

Callback = Callable[[int, Tensor, Tensor, int], None]


def add_av_previews(patcher: Any, *paths: str | Path) -> None:
    """Attach previews to the MODEL ``patcher``; its sampling runs display them on the node.

    ``paths`` are the files of the model; if they hold small autoencoders, previews have true colours. A
    preview that fails is logged once and never stops the run.
    """
    # A wrapper here gets the callback and the shapes of both streams, and works for any sampler node.
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _Wrapper(paths))


class _Wrapper:
    """Wraps the sampling runs of a MODEL so that the callback of each step also draws previews.

    ``paths`` are the files of the model, from which the colours are computed at the first run.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._paths = paths
        self._fitted: list[Previews | None] = []

    def __call__(
        self,
        executor: Callable[..., Any],
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Callback | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        latent_shapes: Sequence[Sequence[int]] | None = None,
        **more: Any,
    ) -> Any:
        # The user can change the method in the host's settings between runs, so it is read for each run.
        enabled = args.preview_method != LatentPreviewMethod.NoPreviews
        if callback is not None and latent_shapes is not None and enabled:
            callback = _Preview(callback, latent_shapes, len(sigmas) - 1, self._fit())
        if latent_shapes is not None:
            more["latent_shapes"] = latent_shapes
        return executor(
            noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **more
        )

    def _fit(self) -> Previews | None:
        """The linear maps from latents to colours and loudness; None if they cannot be computed.

        They are computed once, from the autoencoders in the model's files.
        """
        if not self._fitted:
            try:
                self._fitted.append(_fit_small(self._paths))
            except Exception:
                log.warning("previews have no true colours", exc_info=True)
                self._fitted.append(None)
        return self._fitted[0]


class _Preview:
    """The step callback of one run: calls ``callback``, the original one, and draws a preview if time allows.

    ``shapes`` are those of video and audio in the packed latent, ``steps`` the number of sampling steps, and
    ``fitted`` the maps from latents to colours and loudness; without them (None) colours are false and
    loudness is relative.
    """

    def __init__(
        self, callback: Callback, shapes: Sequence[Sequence[int]], steps: int, fitted: Previews | None
    ) -> None:
        self._callback, self._shapes, self._fitted = callback, shapes, fitted
        # A bar of its own: the host attaches an image to the bar that reports it.
        self._bar = comfy.utils.ProgressBar(steps)
        self._time = TimeShare(SHARE)
        self._decode: Callable[[Tensor], Tensor] | None = None
        self._decoder_tried = self._failed = False

    def __call__(self, step: int, x0: Tensor, x: Tensor, total: int) -> None:
        # The progress of the run is reported even if the preview after it fails.
        self._callback(step, x0, x, total)
        if self._failed or not self._time.due:
            return
        # Synchronise with the device, so that the time of the step does not count as that of the preview.
        x0[..., :1].cpu()
        image = None
        with self._time.spend():
            try:
                image = self._draw(comfy.utils.unpack_latents(x0, self._shapes))
            # The host's interruption is a BaseException, so it is not caught here and stops the run.
            except Exception:
                # A second attempt would fail in the same way and log at each step.
                self._failed = True
                log.warning("no preview of this run", exc_info=True)
            if image is not None:
                preview = ("JPEG", image, latent_preview.MAX_PREVIEW_RESOLUTION)
                self._bar.update_absolute(step + 1, total, preview)

    def _draw(self, streams: Sequence[Tensor]) -> Image.Image | None:
        video = next((t for t in streams if t.ndim == 5 and t.numel()), None)
        audio = next((t for t in streams if t.ndim == 4 and t.numel()), None)
        pixels = None if video is None else self._frame(video)
        if audio is not None:
            levels = relative_levels(audio) if self._fitted is None else self._fitted.levels(audio)
            strip = level_strip(levels.cpu(), 256 if pixels is None else pixels.shape[1])
            pixels = strip if pixels is None else torch.cat((pixels, strip))
        return None if pixels is None else Image.fromarray(pixels.numpy())

    def _frame(self, video: Tensor) -> Tensor:
        """Draw the middle latent frame of the first clip in the latent ``video`` (B, C, F, H, W).

        Returns uint8 (height, width, 3).
        """
        # The first frame may be the input image, which would reveal nothing of the run.
        frame = video.shape[2] // 2
        if not self._decoder_tried:
            self._decoder_tried, self._decode = True, _tiny_decoder()
        if self._decode is not None:
            return _bytes(self._decode(video[:1, :, frame : frame + 1]))
        colours = false_colours if self._fitted is None else self._fitted.colours
        cells = colours(video[:1, :, frame : frame + 1].cpu(), 0)
        size = (_CELL * cells.shape[1], _CELL * cells.shape[0])
        # One pixel a cell would be a thumbnail of 24 x 16, which the page enlarges to blocks.
        image = Image.fromarray(_bytes(cells).numpy()).resize(size, Image.Resampling.BILINEAR)
        # A bytearray, because torch warns of tensors over read-only bytes.
        return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size[1], size[0], 3)


def level_strip(levels: Tensor, width: int) -> Tensor:
    """Draw loudness ``levels`` (T,) in [0, 1] over time, from left to right, as bars on a dark background.

    Returns uint8 (24, width, 3), with ``width`` in pixels.
    """
    moments = torch.arange(width) * len(levels) // width
    heights = 1 + levels[moments] * (_STRIP - 3)
    lit = torch.arange(_STRIP)[:, None] >= _STRIP - heights[None]
    return torch.where(lit[..., None], torch.tensor([90, 210, 120]), torch.tensor([24, 24, 28])).byte()


def _tiny_decoder() -> Callable[[Tensor], Tensor] | None:
    """Load a tiny decoder: a function from one latent frame (1, C, 1, H, W) to pixels (height, width, 3).

    Pixels are in [0, 1]. Returns None if ComfyUI's preview method is not TAESD, or if it has no usable
    decoder file.
    """
    if args.preview_method != LatentPreviewMethod.TAESD:
        return None
    names = [n for n in folder_paths.get_filename_list("vae_approx") if n.startswith(TINY_DECODERS)]
    if not names:
        log.warning(
            "no tiny decoder: put a file whose name begins with %s into models/vae_approx", TINY_DECODERS[0]
        )
        return None
    path = folder_paths.get_full_path_or_raise("vae_approx", names[0])
    vae = comfy.sd.VAE(comfy.utils.load_torch_file(path))
    if vae.first_stage_model is None:
        log.warning("%s is no decoder: previews do not use it", names[0])
        return None
    # Its own bar would appear in the console between the steps of the run.
    vae.first_stage_model.show_progress_bar = False
    return lambda frame: vae.decode(frame)[0, 0].float().cpu()


def _fit_small(paths: Sequence[str | Path]) -> Previews | None:
    """Compute the linear maps from latents to colours and loudness, with autoencoders in the model's files.

    Returns None if the files do not hold all of them, or if they are too large for a preview.
    """
    parts = (Component.VIDEO_ENCODER, Component.VIDEO_DECODER, Component.AUDIO_DECODER)
    weights = read_weights(*paths)
    try:
        sources = {part: weights.source(part) for part in parts}
    except ValueError:
        return None
    # Decoders of released checkpoints have gigabytes, which would take memory from the run itself.
    if sum(info.nbytes for part, s in sources.items() for info in s.infos(part).values()) > _SMALL:
        return None
    encoder, decoder, audio = (s.load(part, dtype=torch.float32) for part, s in sources.items())
    assert isinstance(encoder, VideoEncoder)
    assert isinstance(decoder, VideoDecoder)
    return fit_previews(encoder, decoder, audio)


def _bytes(colours: Tensor) -> Tensor:
    return (colours.clamp(0, 1) * 255).round().byte()
