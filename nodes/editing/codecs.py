"""Lets the library's edits encode and decode with the host's VAEs.

Letters: N frames, C channels, S samples, H W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from ...ltx2_core.editing.footage import Footage
from ...ltx2_core.editing.protocols import Waveform
from ...ltx2_core.media.clip_frames import Frames
from ..convert import audio_from_decoder, clip_audio, encoder_audio, frames_from_image, image_from_frames
from ..host.audio_vae import audio_rate_of, encode_audio
from ..host.values import Audio, Vae
from ..host.video import decoded_frames


@dataclass(frozen=True, eq=False)
class HostCodecs:
    """Encodes and decodes with VAEs of the host.

    ``audio_vae`` is None in nodes that work on video only.
    """

    video_vae: Vae
    audio_vae: Vae | None = None

    def encode_video(self, frames: Frames) -> Tensor:
        """Encode frames (8k + 1, 3, H, W) in [0, 1]: normalised latent (1, 128, k + 1, H / 32, W / 32)."""
        latent: Tensor = self.video_vae.encode(image_from_frames(frames[:]))
        return latent

    def encode_audio(self, waveform: Tensor, sample_rate: int, *, latent_frames: int | None = None) -> Tensor:
        """Encode a waveform (C, S) to a normalised latent (1, 8, T, 16).

        It is first cut or padded with silence to ``latent_frames`` latents, T. Raises ValueError if there is
        no audio VAE.
        """
        # The protocol has a default for other callers; an edit always passes the length of its run.
        assert latent_frames is not None
        if self.audio_vae is None:
            raise ValueError(
                "audio is connected and audio_vae is not: connect the VAE that encodes the audio"
            )
        audio = Audio(waveform=waveform[None], sample_rate=sample_rate)
        cut, rate, _ = clip_audio(audio, 0.0, latent_frames)
        target = audio_rate_of(self.audio_vae)
        return encode_audio(self.audio_vae, encoder_audio(cut, rate, target, latent_frames), target)

    def decode_video(self, latent: Tensor | Iterable[Tensor], *, as_bytes: bool = False) -> Iterator[Tensor]:
        """Decode a latent, whole or in pieces: yields chunks of frames (N, 3, H, W) on the CPU.

        They are in [-1, 1], or uint8 with ``as_bytes``.
        """
        pieces = (latent,) if isinstance(latent, Tensor) else latent
        chunks = decoded_frames(self.video_vae, pieces, as_bytes=as_bytes)
        # Bytes were already copied to the CPU by the function that made them.
        return chunks if as_bytes else (chunk.float().cpu() for chunk in chunks)

    def decode_audio(self, latent: Tensor) -> Waveform:
        """Decode a latent (1, 8, T, 16): (waveform (C, S), sample rate in Hz).

        Raises ValueError if there is no audio VAE.
        """
        if self.audio_vae is None:
            raise ValueError("the audio was sampled with the clip: connect the audio VAE that decodes it")
        rate = self.audio_vae.first_stage_model.output_sample_rate
        return waveform_of(audio_from_decoder(self.audio_vae.decode(latent), rate))


def waveform_of(audio: Audio) -> Waveform:
    """The first waveform of an AUDIO: ((C, S) in float32 on the CPU, sample rate in Hz)."""
    return audio["waveform"][0].float().cpu(), int(audio["sample_rate"])


def footage_of(images: Tensor, fps: float, audio: Audio | None = None) -> Footage:
    """Make IMAGE and AUDIO the source of an edit; its frames are cut to allowed sizes as the host does it."""
    # Hosts with 16-bit intermediates pass IMAGEs of that dtype, and source frames must stay exact.
    frames = frames_from_image(images).float().cpu()
    return Footage(frames=frames, fps=fps, audio=None if audio is None else waveform_of(audio), fit="comfy")
