"""Encodes text, frames and audio for the transformer, and decodes latents; each loads only what it needs.

Letters: B batch, N frames, C channels, S samples, H W pixel rows and columns.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from ..audio import decode_audio, encode_audio
from ..loading import Component, Lora
from ..media import to_signed
from ..media.clip_frames import Frames, TwiceFrames
from ..media.images import as_frames
from ..memory import DecodeChoice
from ..memory.source_stage import CHUNK_FRAMES
from ..out_of_memory import attempt
from ..shapes import SPATIAL_SCALE, TEMPORAL_SCALE, ClipPlan, frames_of
from ..types import AVLatent, TextContext
from ..upsampler import upsample_latent
from ..video_vae import (
    DecodeNoise,
    DiffusionVideoDecoder,
    DrawnNoise,
    FrameNoise,
    NoiseSource,
    SeededNoise,
    VolumeNoise,
)
from ..video_vae.diffusion.noise import copied
from .components import Components
from .decode import decode_chunks
from .progress import Run, Stop


class Codecs:
    """Encodes prompts, frames and audio for the transformer, and decodes the latents that it returns.

    ``networks`` loads the models. ``loras`` are the LoRAs that are merged in every sampling stage.
    """

    def __init__(self, networks: Components, loras: tuple[Lora, ...] = ()) -> None:
        self.networks = networks
        self.loras = loras

    @property
    def has_audio(self) -> bool:
        """Whether the model has audio; LTX-Video has none."""
        return self.networks.has_audio

    @property
    def tone_map(self) -> float:
        """How far latents are compressed before they are decoded, from 0 (not) to 1."""
        return 0.0

    def encode_text(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        *,
        loras: tuple[Lora, ...] | None = None,
        run: Run | None = None,
    ) -> tuple[TextContext, TextContext | None]:
        """Encode a prompt and a negative prompt to text contexts, the features that the transformer reads.

        Returns (context of the prompt, context of the negative prompt, or None without one), each for one
        prompt (B = 1). ``loras`` are merged into the text projection and the connectors, the networks between
        Gemma and the transformer, for which most LoRAs have no layers. None as ``loras`` merges the LoRAs of
        every stage. ``run`` receives the progress, layer by layer; None reports nothing.
        """
        run = run or Run()
        loras = self.loras if loras is None else loras
        prompts = [prompt] if negative_prompt is None else [prompt, negative_prompt]
        # Features are cached and contexts are not: connectors are small, and LoRAs may change them.
        features = self.networks.encode(
            prompts, loras=loras, on_layer=lambda step, steps: run.report("text", step, steps)
        )
        if not self.networks.has_audio:
            # The transformer of LTX-Video reads the states of T5, without their padding.
            own = [one.video[one.mask.bool()][None] for one in features.to(self.networks.dtype).split()]
            read = [TextContext(states, states[..., :0]) for states in own]
            return read[0], read[1] if negative_prompt is not None else None
        with self.networks.use(Component.TEXT_CONNECTORS, loras) as connectors, torch.inference_mode():
            # One by one, since a batch rounds differently from its rows: the context of a prompt must not
            # depend on whether there is a negative prompt, or which.
            parts = features.to(self.networks.dtype).split()
            single = [attempt("encoding the prompt", partial(connectors, one)) for one in parts]
        return single[0], single[1] if negative_prompt is not None else None

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        """The number of tokens of each prompt as the text encoder reads it, the one at its beginning too."""
        return self.networks.count_tokens(prompts)

    def encode_video(self, frames: Frames | TwiceFrames | NDArray[Any]) -> Tensor:
        """Encode frames (8k + 1, 3, height, width) in [0, 1] to a normalised latent.

        The latent is (1, 128, k + 1, height / 32, width / 32), float32; a run can start from it, as its
        ``latents``. A numpy array of frames has the shape (8k + 1, height, width, 3), as ``Generation.array``
        returns it; uint8 is accepted too. Only some of the frames are on the device at a time. Raises
        ValueError for any other number of frames or size, TypeError for anything but frames.
        """
        if isinstance(frames, Tensor | np.ndarray):
            frames = as_frames(frames)
        _check_frames(frames)
        with (
            self.networks.clock.timed("inputs"),
            self.networks.use(Component.VIDEO_ENCODER) as encoder,
            torch.inference_mode(),
        ):
            # Frames of a file are decoded chunk by chunk, so that only their shape is known here.
            encoder.check_frames(rearrange(torch.empty(frames.shape, device="meta"), "n c h w -> 1 c n h w"))
            where = self.networks.device, self.networks.dtype

            def encoded() -> Tensor:
                chunks = (
                    rearrange(to_signed(part), "n c h w -> 1 c n h w").to(*where)
                    for part in frames.split(CHUNK_FRAMES)
                )
                return torch.cat(list(encoder.encode_stream(chunks)), dim=2)

            latent = attempt("encoding frames", encoded)
        # Latents are float32 between networks, in whatever format these compute.
        return latent.float()

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Encode consecutive chunks of frames (N, 3, H, W) in [0, 1], together 8k + 1 of them.

        Yields consecutive pieces (1, 128, f, H / 32, W / 32) of the normalised latent, float32, which is that
        of :meth:`encode_video`. The encoder is loaded until the last piece has been taken; memory does not
        grow with the number of chunks.
        """
        where = self.networks.device, self.networks.dtype
        with self.networks.use(Component.VIDEO_ENCODER) as encoder:
            pieces = encoder.encode_stream(
                rearrange(to_signed(chunk), "n c h w -> 1 c n h w").to(*where) for chunk in chunks
            )
            while True:
                # Between two pieces other networks run, whose time and gradients are their own matter.
                with self.networks.clock.timed("inputs"), torch.inference_mode():
                    # Not again: a generator that has raised has ended, which would cut the clip short.
                    piece = attempt("encoding frames", lambda: next(pieces, None), again=False)
                if piece is None:
                    return
                yield piece.float()

    def encode_audio(self, waveform: Tensor, sample_rate: int, *, latent_frames: int | None = None) -> Tensor:
        """Encode a waveform (channels, samples) in [-1, 1] as a normalised latent (1, 8, T, 16).

        ``sample_rate`` is in Hz. T is the number of audio latent frames, 25 a second. If ``latent_frames``
        states that number, the waveform is trimmed or padded with silence; None takes as many as the waveform
        has.
        """
        with (
            self.networks.clock.timed("inputs"),
            self.networks.use(Component.AUDIO_ENCODER) as encoder,
        ):
            where = self.networks.device
            return attempt(
                "encoding audio",
                lambda: encode_audio(encoder, waveform.to(where), sample_rate, latent_frames=latent_frames),
            )

    def upsample(self, latents: AVLatent, *, adain: float = 0.0) -> AVLatent:
        """Upscale a normalised video latent by the upscaler, usually to twice its rows and columns.

        The new video latent is float32 and normalised; the audio latent is returned unchanged. ``adain``,
        from 0 (off) to 1, says how far the mean and deviation of each channel are brought back to those
        before upscaling. Raises ValueError for latents without video.
        """
        if latents.video is None:
            raise ValueError("there is no video to upscale in these latents")
        with (
            self.networks.clock.timed("sampling", stage="upscale"),
            self.networks.use(Component.UPSAMPLER) as upsampler,
            # The encoder is only needed for its statistics: the upsampler works on latents that are not
            # normalised.
            self.networks.use(Component.VIDEO_ENCODER) as encoder,
            torch.inference_mode(),
        ):
            video = latents.video.to(self.networks.device, self.networks.dtype)
            statistics = encoder.per_channel_statistics
            video = attempt(
                "upscaling the latent", lambda: upsample_latent(upsampler, video, statistics, adain=adain)
            )
        return replace(latents, video=video.float())

    def decode_video(
        self,
        latent: Tensor | Iterable[Tensor],
        *,
        as_bytes: bool = False,
        stop: Stop | None = None,
        dtype: torch.dtype | None = None,
        after_sampling: NoiseSource | None = None,
    ) -> Iterator[Tensor]:
        """Decode a normalised latent (1, 128, F, H, W) to chunks of frames (N, 3, 32 H, 32 W) in [-1, 1].

        The latent may also be an iterable of tensors that follow each other along the axis F. The chunks
        together equal the frames of decoding all at once, unless a memory budget requires tiles that are not
        exact; memory does not grow with the number of frames. With ``as_bytes`` frames are uint8, converted
        on the device, so that fewer bytes are copied. ``stop`` is called before each chunk; if it returns
        True, decoding ends with :class:`Stopped`. The decoder computes in ``dtype``, by default the number
        format of the run. ``after_sampling`` is the noise by which a diffusion decoder continues the random
        generator of the run that sampled the latent.

        Raises ValueError for an iterable without a tensor, and if ``after_sampling`` is missing where the run
        asks for that noise.
        """
        dtype = dtype or self.networks.dtype
        with self.networks.use(Component.VIDEO_DECODER, dtype=dtype) as decoder:
            if isinstance(decoder, DiffusionVideoDecoder):
                decoder.noise = self._decoder_noise(latent, after_sampling)
            elif decoder.config.uses_noise:
                decoder.noisy = replace(
                    decoder.noisy,
                    noise=self._latent_noise(latent, after_sampling),
                    tone_map=self.tone_map,
                )
            pieces = iter((latent,) if isinstance(latent, Tensor) else latent)
            first = next(pieces, None)
            if first is None:
                raise ValueError("there is no latent to decode; give at least one piece")
            # How many pieces will come is unknown, so that the choice has to hold for any length.
            frames = frames_of(latent.shape[2]) if isinstance(latent, Tensor) else sys.maxsize
            where = self.networks.device, dtype
            moved = (piece.to(*where) for piece in chain((first,), pieces))
            # The decoder is held until the last chunk has been taken.
            yield from decode_chunks(
                decoder,
                # A whole latent stays whole: noise of the whole clip needs its length.
                next(moved) if isinstance(latent, Tensor) else moved,
                self._decode_choice(first, frames, dtype),
                as_bytes=as_bytes,
                check=Run(stop=stop).check,
                clock=self.networks.clock,
            )

    def decode_audio(self, latent: Tensor) -> tuple[Tensor, int]:
        """Decode a normalised audio latent (1, 8, T, 16) to a stereo waveform.

        Returns (waveform (2, samples) in [-1, 1] on the CPU, sample rate in Hz).
        """
        with (
            self.networks.clock.timed("decode"),
            self.networks.use(Component.AUDIO_DECODER) as decoder,
            self.networks.use(Component.VOCODER) as vocoder,
        ):
            waveform, rate = attempt(
                "decoding the audio",
                lambda: decode_audio(decoder, vocoder, latent.to(self.networks.device)),
            )
        return waveform[0].cpu(), rate

    def _decoder_noise(
        self, latent: Tensor | Iterable[Tensor], after_sampling: NoiseSource | None
    ) -> NoiseSource:
        """The noise that a diffusion decoder starts from; the arguments are those of ``decode_video``."""
        kind, seed = self.networks.decoder_noise, self.networks.decoder_seed
        # Other noise needs the length of the clip, which pieces do not tell.
        if kind == "frame" or not isinstance(latent, Tensor):
            return FrameNoise(seed)
        if kind == "comfy":
            return VolumeNoise(seed)
        if after_sampling is None:
            raise ValueError(
                "decoder_noise=official continues the random generator of a run, and these latents are of "
                "no run: use frame or comfy"
            )
        return after_sampling

    def _latent_noise(
        self, latent: Tensor | Iterable[Tensor], after_sampling: NoiseSource | None
    ) -> DecodeNoise:
        """The noise of a decoder of LTX-Video; the arguments are those of ``decode_video``."""
        kind, seed = self.networks.decoder_noise, self.networks.decoder_seed
        if kind == "frame" or not isinstance(latent, Tensor):
            return SeededNoise(seed)
        if kind == "comfy":
            return DrawnNoise(torch.Generator(self.networks.device).manual_seed(seed))
        start = after_sampling.start if isinstance(after_sampling, VolumeNoise) else None
        if start is None:
            raise ValueError(
                "decoder_noise=official continues the random generator of a run, and these latents are of "
                "no run: use frame or comfy"
            )
        return DrawnNoise(copied(start))

    def _decode_choice(self, latent: Tensor, frames: int, dtype: torch.dtype) -> DecodeChoice | None:
        """Choose chunks and tiles for decoding a clip of ``frames`` frames within the memory budget.

        ``dtype`` is the number format of the decoder, and ``latent`` the first piece of the clip's latent,
        which tells the size. Returns None without a budget.
        """
        rows, columns = latent.shape[3:]
        # Memory does not depend on the frame rate, so that any will do.
        clip = ClipPlan(width=columns * SPATIAL_SCALE, height=rows * SPATIAL_SCALE, frames=frames, fps=24.0)
        return self.networks.decode_choice(clip, dtype=dtype)


def _check_frames(frames: object) -> None:
    """Raise ValueError or TypeError for what no video encoder takes, before one is loaded."""
    shape = getattr(frames, "shape", None)
    if shape is None:
        raise TypeError(f"frames must be a tensor (8k + 1, 3, height, width) or an array; got {frames!r:.60}")
    if len(shape) != 4 or shape[1] != 3 or shape[0] % TEMPORAL_SCALE != 1:
        raise ValueError(f"frames must be (8k + 1, 3, height, width); got {tuple(shape)}")
    if shape[2] % SPATIAL_SCALE or shape[3] % SPATIAL_SCALE:
        raise ValueError(f"frames are {shape[3]}x{shape[2]}: both must be multiples of {SPATIAL_SCALE}")
