"""Lets the library's edits encode and decode with ComfyUI's VAEs.

Letters: N frames, C channels, S samples, H W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from ...ltx2_core.audio.mel import resample, to_stereo
from ...ltx2_core.editing.footage import Footage
from ...ltx2_core.editing.protocols import Waveform
from ...ltx2_core.media.clip_frames import Frames, TwiceFrames
from ..convert import audio_from_decoder, clip_audio, encoder_audio, frames_from_image, image_from_frames
from ..host.audio_vae import audio_rate_of, encode_audio
from ..host.ltx_video import is_ltx_video_vae
from ..host.values import Audio, Vae
from ..host.video import decoded_frames
from ..host.video_vae import checked_video_vae


@dataclass(frozen=True, eq=False)
class HostCodecs:
    """Encodes and decodes frames and audio for an edit with VAEs of ComfyUI.

    ``audio_vae`` is None in nodes that work on video only, and with LTX-Video.
    """

    video_vae: Vae
    audio_vae: Vae | None = None

    @property
    def has_audio(self) -> bool:
        """Whether the model has audio; LTX-Video has none, which its video VAE tells."""
        return not is_ltx_video_vae(self.video_vae)

    def encode_video(self, frames: Frames | TwiceFrames) -> Tensor:
        """Encode frames (8k + 1, 3, height, width) in [0, 1] to a normalised latent.

        The latent is (1, 128, k + 1, height / 32, width / 32).
        """
        latent: Tensor = checked_video_vae(self.video_vae).encode(image_from_frames(frames[:]))
        return latent

    def encode_audio(self, waveform: Tensor, sample_rate: int, *, latent_frames: int | None = None) -> Tensor:
        """Encode a waveform (channels, samples) at ``sample_rate`` Hz to a normalised latent (1, 8, T, 16).

        T is ``latent_frames``: the waveform is first cut or padded with silence to this length; None encodes
        all of it. Raises ValueError if there is no audio VAE.
        """
        if self.audio_vae is None:
            raise ValueError(
                "audio is connected and audio_vae is not: connect the VAE that encodes the audio"
            )
        audio, target = Audio(waveform=waveform[None], sample_rate=sample_rate), audio_rate_of(self.audio_vae)
        if latent_frames is None:
            whole = resample(to_stereo(audio["waveform"]), sample_rate, target)
            return encode_audio(self.audio_vae, whole, target)
        cut, rate, _ = clip_audio(audio, 0.0, latent_frames)
        return encode_audio(self.audio_vae, encoder_audio(cut, rate, target, latent_frames), target)

    def decode_video(self, latent: Tensor | Iterable[Tensor], *, as_bytes: bool = False) -> Iterator[Tensor]:
        """Decode a latent, whole or in consecutive pieces along time, to chunks of frames on the CPU.

        Chunks are (frames, 3, height, width) in [-1, 1]. A VAE of this pack decodes chunk by chunk; with
        ``as_bytes`` its chunks are uint8 in 0 to 255. Other VAEs return all frames as one chunk in [-1, 1].
        """
        pieces = (latent,) if isinstance(latent, Tensor) else latent
        chunks = decoded_frames(self.video_vae, pieces, as_bytes=as_bytes)
        # Bytes were already copied to the CPU by the function that made them.
        return chunks if as_bytes else (chunk.float().cpu() for chunk in chunks)

    def decode_audio(self, latent: Tensor) -> Waveform:
        """Decode an audio latent (1, 8, T, 16) to (waveform (channels, samples), sample rate in Hz).

        Raises ValueError if there is no audio VAE.
        """
        if self.audio_vae is None:
            raise ValueError("the audio was sampled with the clip: connect the audio VAE that decodes it")
        audio_rate_of(self.audio_vae)
        rate = self.audio_vae.first_stage_model.output_sample_rate
        return waveform_of(audio_from_decoder(self.audio_vae.decode(latent), rate))


def waveform_of(audio: Audio) -> Waveform:
    """The first waveform of an AUDIO batch: ((channels, samples) float32 on the CPU, sample rate in Hz)."""
    return audio["waveform"][0].float().cpu(), int(audio["sample_rate"])


def footage_of(images: Tensor, fps: float, audio: Audio | None = None) -> Footage:
    """Convert an IMAGE at ``fps`` frames a second, and AUDIO (None: no audio), to the source clip of an edit.

    Frames of a size that the model cannot generate will be cropped and scaled as ComfyUI does it.
    """
    # Hosts with 16-bit intermediates pass IMAGEs of that dtype, and source frames must stay exact.
    frames = frames_from_image(images).float().cpu()
    return Footage(frames=frames, fps=fps, audio=None if audio is None else waveform_of(audio), fit="comfy")
