"""Sizes and numbers of steps for training a tiny model set: for the packaged set, one GPU, or a smoke test.

How they were found, and what each stage takes: docs/tiny-model.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...storage.files import ParsedJson
from ...tiny.settings import tiny_config, tiny_upsampler_config
from ..autoencoders.audio_vae import AudioVAERecipe
from ..autoencoders.upsampler import UpsamplerRecipe
from ..autoencoders.video_code import SAMPLES
from ..autoencoders.video_vae import VideoVAERecipe
from ..autoencoders.vocoder import VocoderRecipe
from ..latents import Bucket
from ..lora import ATTENTION
from ..tasks import FlowOptions
from ..world.batches import ClipSize
from .diffusion import LONG, SHORT, ContextChoice, FlowRecipe, LoraRecipe
from .duration import DurationRecipe
from .recipe import merged, trained_config, trained_upsampler_config

GPU_ENCODER = VideoVAERecipe(
    total_steps=20_000,
    seconds=60,
    lr=5e-4,
    adam_lr=5e-5,
    weight_decay=0.0,
    sizes=(
        ClipSize(batch=16, frames=25, width=128, height=128),
        ClipSize(batch=16, frames=49, width=128, height=128),
        ClipSize(batch=32, frames=33, width=96, height=64),
    ),
)
"""A minute of an H100, at 36 GFLOP per clip of 128x128 pixels and 25 frames, forward and backward."""

GPU_DECODER = VideoVAERecipe(
    total_steps=60_000,
    seconds=220,
    lr=1e-3,
    adam_lr=1e-4,
    weight_decay=0.0,
    decibels=True,
    cuts=0.5,
    sizes=(
        ClipSize(batch=16, frames=25, width=128, height=128),
        ClipSize(batch=8, frames=49, width=128, height=128),
        ClipSize(batch=32, frames=25, width=64, height=64),
        ClipSize(batch=16, frames=33, width=96, height=64),
    ),
)
"""Under four minutes of an H100, at 45 GFLOP per clip of 128x128 pixels and 25 frames, and 12 for its latent.

The rate is low because training starts from a fitted decoder, near an optimum.
"""

HEADS = 8
# Eight heads of 20 are 160 channels and of 16 are 128, at least the 128 channels of a latent.
HEAD_DIM = 20
AUDIO_HEAD_DIM = 16
LAYERS = 4


@dataclass(frozen=True, kw_only=True)
class Continued:
    """Settings, in addition to a :class:`Scale`, for training LTX-2.5 from a trained set of LTX-2.3.

    ``diffusion_config`` and ``duration_config`` are the configurations in the headers of the diffusion VAE
    and of the duration head.
    """

    diffusion_config: ParsedJson
    duration_config: ParsedJson
    inverse_sizes: tuple[ClipSize, ...]
    """Clips from which the linear inverse of the video encoder is computed."""
    decoder: VideoVAERecipe
    captions: int
    """Number of captions on which the text projection is fitted to the new text encoder."""
    fit_batches: int
    """Batches of clips on which feed-forwards are fitted to do without biases."""
    duration: DurationRecipe


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Configurations of all networks and training settings of all stages of ``ltx2 train tiny``.

    ``config`` is that of the checkpoint's header, ``buckets`` and ``shard_clips`` describe the dataset of
    latents.
    """

    config: ParsedJson
    upsampler_config: ParsedJson
    code_sizes: tuple[ClipSize, ...]
    """Clips from which the video code is computed."""
    linear_steps: int
    """Steps of the linear encoder with which training starts."""
    fit_sizes: tuple[ClipSize, ...]
    """Clips on which the layers of the decoder are fitted."""
    video_encoder: VideoVAERecipe
    video_decoder: VideoVAERecipe
    audio_vae: AudioVAERecipe
    vocoder: VocoderRecipe
    upsampler: UpsamplerRecipe
    buckets: tuple[Bucket, ...]
    shard_clips: int
    transformer: FlowRecipe
    distilled: LoraRecipe
    edges: LoraRecipe
    minutes: Mapping[str, float]
    """Expected minutes of stages on ``machine``."""
    machine: str = "2 cores"
    evaluates: bool = True
    """Whether held-out clips are measured during training."""
    statistics_clips: int = 256
    """Clips from which the statistics of audio latents are computed."""
    continued: Continued | None = None
    """Set for LTX-2.5; the stages of the 2.3 set are then not run."""


_ALL_TASKS = FlowOptions(
    input_audio=0.2, input_video=0.2, region=0.12, first_frame=0.15, guides=0.12, shift=1.6
)

_EDGE_TASKS = FlowOptions(
    first_frame=0.05,
    input_audio=0.05,
    input_video=0.0,
    region=0.0,
    guides=0.0,
    # Edges say nothing of the audio, so that a step should rather improve the frames.
    audio_weight=0.2,
    shift=1.6,
    uniform=0.3,
)


def full_scale() -> Scale:
    """The sizes and numbers of steps of the embedded set: about four hours of training on two CPU cores."""
    return Scale(
        config=with_transformer(trained_config()),
        upsampler_config=trained_upsampler_config(),
        code_sizes=SAMPLES,
        linear_steps=700,
        fit_sizes=(
            ClipSize(batch=420, frames=17, width=128, height=128),
            ClipSize(batch=500, frames=17, width=64, height=64),
            ClipSize(batch=200, frames=17, width=96, height=96),
        ),
        # Both are fitted by least squares; some minutes of gradient steps do not improve them.
        video_encoder=VideoVAERecipe(total_steps=0),
        video_decoder=VideoVAERecipe(total_steps=0),
        audio_vae=AudioVAERecipe(),
        vocoder=VocoderRecipe(),
        upsampler=UpsamplerRecipe(),
        buckets=(
            Bucket(width=128, height=128, frames=25, clips=4096, share=0.62),
            # Few long and small clips: most steps train on the first bucket, which has the usual size.
            Bucket(width=128, height=128, frames=49, clips=2048, share=0.12),
            # With a quarter of these clips the edge LoRA overfits.
            Bucket(width=128, height=96, frames=25, clips=4096, share=0.06, reference=True),
            Bucket(width=64, height=64, frames=25, clips=1536, share=0.12),
            Bucket(width=96, height=64, frames=33, clips=768, share=0.04),
            Bucket(width=64, height=64, frames=17, clips=768, share=0.04),
        ),
        shard_clips=128,
        transformer=FlowRecipe(total_steps=6000, batch=32, options=_ALL_TASKS),
        distilled=LoraRecipe(
            rank=16,
            flow=FlowRecipe(total_steps=1000, batch=8, adam_lr=1e-3, contexts=((0.85, SHORT), (1.0, LONG))),
        ),
        edges=LoraRecipe(
            rank=32,
            flow=FlowRecipe(
                total_steps=900,
                batch=16,
                adam_lr=4e-3,
                contexts=((0.7, SHORT), (1.0, LONG)),
                options=_EDGE_TASKS,
            ),
        ),
        minutes={
            "text": 0.1,
            "video-code": 0.5,
            "video-encoder": 5,
            "video-decoder": 5,
            "audio-vae": 10,
            "vocoder": 12,
            "latents": 11,
            "transformer": 120,
            "upsampler": 10,
            "distilled": 30,
            "edges": 25,
            "export": 0.1,
        },
    )


_WHOLE = ContextChoice(length=64)
"""Fits every caption, so that the length is the same in all steps and each can be a CUDA graph."""


def gpu_scale() -> Scale:
    """The same networks as :func:`full_scale`, trained on one GPU.

    It has four times the batch, more clips, and stages that are limited by time. Its sizes and times follow
    from the floating-point operations of an H100; it has not been run on a GPU.
    """
    scale = full_scale()
    clips = {"128x128x25": 12288, "128x128x49": 4608, "128x96x25": 8192, "64x64x25": 4096}
    return replace(
        scale,
        video_encoder=GPU_ENCODER,
        video_decoder=GPU_DECODER,
        buckets=tuple(replace(b, clips=clips.get(b.name, 2048)) for b in scale.buckets),
        transformer=replace(
            scale.transformer,
            total_steps=100_000,
            seconds=420,
            batch=128,
            contexts=((0.7, (_WHOLE,)), (1.0, (replace(_WHOLE, share=0.6), *LONG))),
        ),
        distilled=_with_whole_captions(scale.distilled),
        edges=_with_whole_captions(scale.edges),
        minutes={"text": 0.1, "transformer": 7, "video-encoder": 1, "video-decoder": 4, "export": 0.1},
        machine="one H100 and 16 cores",
    )


def _with_whole_captions(recipe: LoraRecipe) -> LoraRecipe:
    return replace(recipe, flow=replace(recipe.flow, contexts=((0.7, (_WHOLE,)), (1.0, LONG))))


def smoke_scale() -> Scale:
    """Sizes and numbers of steps with which all stages take less than a minute.

    The result loads and runs, but has learnt nothing.
    """
    clip = ClipSize(batch=1, frames=9, width=64, height=64)
    contexts: tuple[tuple[float, tuple[ContextChoice, ...]], ...] = ((0.5, (ContextChoice(length=32),)),)
    contexts += ((1.0, (ContextChoice(length=128),)),)
    flow = FlowRecipe(total_steps=2, batch=2, contexts=contexts)
    lora = LoraRecipe(rank=2, targets=ATTENTION, flow=flow)
    return Scale(
        # The widths of the untrained set suffice, since nothing is learnt here.
        config=tiny_config("2.3"),
        upsampler_config=tiny_upsampler_config(),
        code_sizes=(ClipSize(batch=24, frames=17, width=64, height=64),),
        linear_steps=2,
        fit_sizes=(ClipSize(batch=4, frames=9, width=64, height=64),),
        video_encoder=VideoVAERecipe(total_steps=2, sizes=(clip,)),
        video_decoder=VideoVAERecipe(total_steps=2, sizes=(clip,)),
        audio_vae=AudioVAERecipe(total_steps=2, batch=1, seconds=(0.7,)),
        vocoder=VocoderRecipe(total_steps=2, batch=1, seconds=0.6, mel_frames=20),
        upsampler=UpsamplerRecipe(total_steps=2, sizes=(replace(clip, width=32, height=32),)),
        buckets=(Bucket(width=64, height=64, frames=9, clips=4, reference=True),),
        shard_clips=2,
        transformer=flow,
        distilled=lora,
        edges=lora,
        minutes={},
        # Measuring held-out clips would take longer than these few steps.
        evaluates=False,
        statistics_clips=2,
    )


SCALES = {"full": full_scale, "gpu": gpu_scale, "smoke": smoke_scale}


def with_transformer(config: ParsedJson) -> ParsedJson:
    """A copy of the header's ``config`` with transformer and connectors as wide as those of the trained set.

    Each stream is at least as wide as its 128 latent channels, because most of a velocity is the noise of its
    input and has to pass through.
    """
    video, audio = HEADS * HEAD_DIM, HEADS * AUDIO_HEAD_DIM
    widths = {
        "num_layers": LAYERS,
        "num_attention_heads": HEADS,
        "attention_head_dim": HEAD_DIM,
        "cross_attention_dim": video,
        "audio_num_attention_heads": HEADS,
        "audio_attention_head_dim": AUDIO_HEAD_DIM,
        "audio_cross_attention_dim": audio,
        "connector_num_attention_heads": HEADS,
        "connector_attention_head_dim": HEAD_DIM,
        "audio_connector_num_attention_heads": HEADS,
        "audio_connector_attention_head_dim": AUDIO_HEAD_DIM,
    }
    return merged(config, {"transformer": widths})
