"""Sizes and numbers of steps for training the tiny set of LTX-2.5, which continues that of 2.3."""

from __future__ import annotations

from dataclasses import replace

from ...storage.files import ParsedJson
from ...tiny.settings import NEW_IN_25
from ..autoencoders.video_vae import VideoVAERecipe
from ..latents import Bucket
from ..tasks import FlowOptions
from ..world.batches import ClipSize
from .diffusion import LONG, SHORT, ContextChoice, FlowRecipe
from .duration import DurationPhase, DurationRecipe
from .recipe import merged, trained_diffusion_vae_config, trained_duration_config
from .scales import AUDIO_HEAD_DIM, HEAD_DIM, HEADS, Continued, Scale, full_scale


def continued_scale() -> Scale:
    """Sizes and numbers of steps for the LTX-2.5 set of the package: about 40 minutes of one CPU core."""
    base = full_scale()
    return replace(
        base,
        config=config_25(base.config),
        buckets=(
            Bucket(width=128, height=128, frames=25, clips=640, share=0.62, says_s=1.0),
            Bucket(width=128, height=128, frames=49, clips=128, share=0.1, says_s=2.0),
            Bucket(width=64, height=64, frames=25, clips=256, share=0.16, says_s=1.0),
            Bucket(width=96, height=64, frames=33, clips=128, share=0.06),
            Bucket(width=64, height=64, frames=17, clips=128, share=0.06),
        ),
        transformer=FlowRecipe(
            total_steps=250,
            batch=16,
            # Low rates, because training starts where that of the 2.3 set ended.
            lr=2e-3,
            adam_lr=2e-4,
            weight_decay=0.0,
            contexts=((0.7, SHORT), (1.0, LONG)),
            options=FlowOptions(
                input_audio=0.1,
                input_video=0.1,
                region=0.1,
                first_frame=0.2,
                guides=0.1,
                slots=0.5,
                shift=1.6,
            ),
        ),
        minutes={
            "text": 0.1,
            "diffusion-decoder": 17,
            "latents": 5,
            "initial": 0.3,
            "transformer": 12,
            "duration-head": 8,
            "export": 0.1,
        },
        machine="one core",
        continued=Continued(
            diffusion_config=trained_diffusion_vae_config(),
            duration_config=trained_duration_config(HEADS * HEAD_DIM, HEADS * AUDIO_HEAD_DIM),
            inverse_sizes=(
                ClipSize(batch=120, frames=25, width=64, height=64),
                ClipSize(batch=50, frames=25, width=96, height=96),
                ClipSize(batch=50, frames=25, width=128, height=128),
            ),
            decoder=VideoVAERecipe(
                total_steps=350,
                lr=3e-4,
                adam_lr=1e-4,
                weight_decay=0.0,
                decibels=True,
                cuts=0.5,
                sizes=(
                    ClipSize(batch=5, frames=17, width=64, height=64),
                    ClipSize(batch=2, frames=17, width=96, height=96),
                    ClipSize(batch=1, frames=25, width=128, height=128),
                ),
            ),
            captions=800,
            fit_batches=8,
            duration=DurationRecipe(),
        ),
    )


def continued_smoke_scale() -> Scale:
    """A few steps on a few clips, for a smoke test that continues the embedded set of LTX-2.3."""
    scale = continued_scale()
    assert scale.continued is not None
    clip = ClipSize(batch=1, frames=9, width=64, height=64)
    short = ((1.0, (ContextChoice(length=32),)),)
    return replace(
        scale,
        buckets=(Bucket(width=64, height=64, frames=9, clips=4, says_s=1.0),),
        shard_clips=4,
        transformer=replace(scale.transformer, total_steps=2, batch=2, contexts=short),
        minutes={},
        evaluates=False,
        continued=replace(
            scale.continued,
            inverse_sizes=(ClipSize(batch=24, frames=17, width=64, height=64),),
            decoder=replace(scale.continued.decoder, total_steps=2, sizes=(clip,)),
            captions=8,
            fit_batches=1,
            duration=DurationRecipe(
                total_steps=2, phases=(DurationPhase(until=1.0, captions=40, length=128, batch=2),)
            ),
        ),
    )


def config_25(config: ParsedJson) -> ParsedJson:
    """A copy of a 2.3 header's ``config`` with the transformer of LTX-2.5, of the same widths."""
    return merged(config, {"transformer": NEW_IN_25})


CONTINUED_SCALES = {"full": continued_scale, "smoke": continued_smoke_scale}
