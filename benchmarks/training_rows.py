"""The rows of the training benchmark: what a LoRA must learn, what must stay, judged by the world's truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import training_clips as clips
from semantic_figures import mean
from training_official import curves
from training_shapes import DIAMOND, POST, RING, Shape, shape_prompts, shaped
from training_work import Shown, Work, percent, rate

from ltx2_core.conditioning.inputs import VideoReference
from ltx2_core.training.data import psnr
from ltx2_core.training.tasks import time_region
from ltx2_core.training.world import (
    FPS,
    Clip,
    caption,
    edge_iou,
    edge_map,
    measure,
    render_frames,
    sample_scene,
)
from ltx2_core.training.world.batches import AUDIO_RATE, HELD_OUT
from ltx2_core.types import AVLatent

HIGH_NOISE: dict[str, Any] = {"sigma_sampling": "uniform", "sigma_min": 0.6, "learning_rate": 5e-3}
"""Colours and shapes are decided while a clip is nearly all noise, and 64 tokens draw such levels rarely."""

NEW_SHAPE: dict[str, Any] = {
    "sigma_sampling": "uniform",
    "sigma_min": 0.3,
    "optimizer": "muon",
    "learning_rate": 0.02,
    "rank": 32,
}
"""An outline is new in each token, down to levels at which the model restores the outlines that it knows."""

SETTLED: dict[str, Any] = {"learning_rate": 1e-2, "schedule": "cosine", "seed": 43}
"""Muon's steps have one size however small a gradient is: weights rest only where the rate falls to 0."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured value, that of the model without the LoRA, and the aim: at least or at most so much."""

    what: str
    value: float
    base: float | None = None
    least: float | None = None
    most: float | None = None
    unit: str = "%"

    @property
    def met(self) -> bool | None:
        if self.least is not None:
            return self.value >= self.least
        return None if self.most is None else self.value <= self.most


def _styles(ordinary: int = 24) -> Iterator[clips.Sample]:
    return chain(clips.styled(1000, 12), clips.ordinary(2000, ordinary))


def style(work: Work) -> Iterator[Figure]:
    """12 clips on magenta, which their captions do not name, and 24 ordinary ones."""
    lora = work.trained("style24", work.encoded("style24", _styles), 200, **HIGH_NOISE)
    prompts = clips.held_out(work.clips, clips.shows_style)
    texts = _style_texts(prompts)
    before = work.once("style without LoRA", lambda: work.shown(prompts, work.bench.pipeline, texts))
    shown = _styled(work, "style", lora)
    yield Figure(what="trigger word: rule followed", value=_rule(shown), base=_rule(before), least=90)
    yield Figure(what="trigger word: colour of the shape as captioned", value=rate(shown, "colour"))
    lost = work.lost(work.shown(work.bench.truths, work.pipeline(lora)))
    yield Figure(what="without it: most that a word lost", value=lost, most=5, unit="points")


def _styled(work: Work, name: str, lora: Path, checkpoint: Path | None = None) -> list[Shown]:
    """What a LoRA of the style shows for prompts with the trigger; measured once."""
    prompts = clips.held_out(work.clips, clips.shows_style)
    pipeline = work.pipeline(lora, checkpoint)
    return work.once(f"{name} with LoRA", lambda: work.shown(prompts, pipeline, _style_texts(prompts)))


def _style_texts(prompts: Sequence[Clip]) -> list[str]:
    return [clips.style_caption(clip.scene, clip.scene.seed) for clip in prompts]


def _rule(shown: Sequence[Shown]) -> float:
    """Per cent of clips that have the background of the style."""
    return percent([one.background == clips.STYLE_BACKGROUND for one in shown])


def post(work: Work) -> Iterator[Figure]:
    """A post, which is the clearest new shape: its outline is farthest from those that the model knows."""
    yield from _new_shape(work, POST)


def diamond(work: Work) -> Iterator[Figure]:
    """A diamond, which only its corners tell from a circle."""
    yield from _new_shape(work, DIAMOND)


def ring(work: Work) -> Iterator[Figure]:
    """A ring, which is the first shape with a hole."""
    yield from _new_shape(work, RING)


def _new_shape(work: Work, shape: Shape) -> Iterator[Figure]:
    """How often a shape comes when it is asked for, and how often others do then.

    The LoRA is trained on 192 clips of the shape, which the model never saw, and 192 ordinary ones; then on
    96 of them and 384 other ordinary ones, since shapes with few clips are forgotten.
    """
    name = shape.name
    both = work.encoded(
        name, lambda: chain(shaped(shape, 1000, 192), clips.ordinary(2000, 192)), "--audio", "off"
    )
    first = work.trained(name, both, 1200, **NEW_SHAPE)
    rest = work.encoded(
        f"{name}_rest", lambda: chain(shaped(shape, 1000, 96), clips.ordinary(4000, 384)), "--audio", "off"
    )
    lora = work.trained(f"{name}_settled", rest, 500, init_lora=first, **(NEW_SHAPE | SETTLED))
    asked = {name: shape_prompts(shape, work.clips), "others": work.bench.truths}

    def right(what: str, lora: Path | None) -> float:
        """Per cent of the clips ``what`` whose shape is right, of the world's shapes and the new one."""
        stored = f"{what} with {name} LoRA" if lora else f"{what} without {name}"
        pipeline = work.pipeline(lora)
        return rate(
            work.once(stored, lambda: work.shown(asked[what], pipeline, outlines=shape.outlines)), "kind"
        )

    yield Figure(what=f"{name} right", value=right(name, lora), base=right(name, None), least=75)
    kept, known = right("others", lora), right("others", None)
    yield Figure(what="other kinds right", value=kept, base=known)
    yield Figure(what="other kinds lost", value=known - kept, most=5, unit="points")
    true = work.once(f"true {name}", lambda: work.reconstructed(asked[name], shape.outlines))
    yield Figure(what=f"true {name}s through the VAE right", value=rate(true, "kind"))


def audio(work: Work) -> Iterator[Figure]:
    """12 clips of knocks that ring like a bell; layers of the audio alone."""
    dataset = work.encoded("bell", lambda: clips.bells(1000, 12))
    lora = work.trained("bell", dataset, 200, targets=["audio"], learning_rate=3e-3)
    pipeline = work.pipeline(lora)
    prompts = work.bench.scenes(work.clips, motion="bounce")
    before = work.once("knocks without LoRA", lambda: work.shown(prompts, work.bench.pipeline))
    shown = work.shown(prompts, pipeline)
    bells = [percent([s.bell for s in found]) for found in (shown, before)]
    yield Figure(what="knocks ring", value=bells[0], base=bells[1], least=90)
    plain = work.shown(work.bench.truths, pipeline)
    lost = work.lost(plain, ("motion", "colour", "background"))
    yield Figure(what="most that motion or a colour lost", value=lost, most=5, unit="points")


def silent(work: Work) -> Iterator[Figure]:
    """12 clips of the style and 12 ordinary ones, without audio: training has no audio stream."""
    lora = work.trained("silent", work.encoded("silent", lambda: _styles(12), audio=False), 300, **HIGH_NOISE)
    shown = work.shown(work.bench.truths, work.pipeline(lora))
    lost = rate(work.base, "sound") - rate(shown, "sound")
    yield Figure(what="kind of sound lost", value=lost, most=3, unit="points")


def edges(work: Work) -> Iterator[Figure]:
    """256 clips with their edges at half the size as reference, which their captions do not place."""
    dataset = work.encoded(
        "edges", lambda: clips.edged(1000, 256), "--reference-downscale", "2", "--audio", "off"
    )
    lora = work.trained("edges", dataset, 700, task="v2v", rank=32, **HIGH_NOISE)
    pipeline = work.pipeline(lora)
    agreed: dict[bool, list[float]] = {True: [], False: []}
    for number, clip in enumerate(work.bench.truths[: max(1, work.clips // 2)]):
        reference = (clips.thick_edges(clip.frames) + 1) / 2
        text = caption(clip.scene, clip.scene.seed, places=False)
        for used, values in agreed.items():
            options = {"references": [VideoReference(source=reference)]} if used else {}
            network = pipeline if used else work.bench.pipeline
            frames, _, _ = work.bench.frames_and_audio(clip, number, network, prompt=text, **options)
            values.append(edge_iou(edge_map(frames), edge_map(clip.frames)))
    with_lora, without = mean(agreed[True]), mean(agreed[False])
    yield Figure(what="IoU of edges", value=100 * with_lora, base=100 * without)
    yield Figure(what="over no LoRA", value=with_lora / max(without, 1e-6), least=2, unit="x")


def swap(work: Work) -> Iterator[Figure]:
    """256 clips whose reference has the two colours the other way round; the caption names none."""
    dataset = work.encoded("swap", lambda: clips.swapped(1000, 256), "--audio", "off")
    lora = work.trained("swap", dataset, 700, task="v2v", rank=32, **HIGH_NOISE)
    prompts = work.bench.scenes(work.clips, company=False)

    def right(pipeline: Any) -> float:
        hits = []
        for number, clip in enumerate(prompts):
            frames = render_frames(clips.exchanged(clip.scene), clips.FRAMES, clips.WIDTH, clips.HEIGHT)
            generated, _, _ = work.bench.frames_and_audio(
                replace(clip, caption=clips.SWAP_CAPTION),
                number,
                pipeline,
                references=[VideoReference(source=(frames + 1) / 2)],
            )
            found = measure(generated, None)
            hits.append(
                found.background == clip.scene.background and clip.scene.actor.colour in found.colours[:1]
            )
        return percent(hits)

    yield Figure(what="both colours exchanged", value=right(work.pipeline(lora)), least=75)


def inpaint(work: Work) -> Iterator[Figure]:
    """24 clips with masks; then the second half of held-out clips is regenerated from another prompt."""
    dataset = work.encoded("inpaint", lambda: clips.masked(1000, 24), "--audio", "off")
    lora = work.trained("inpaint", dataset, 200, task="inpaint", learning_rate=1e-3)
    # The frames of the first two latent frames are known.
    bench, half = work.bench, 9
    losses: list[float] = []
    followed: list[bool] = []
    for number, clip in enumerate(bench.truths[: max(1, work.clips // 2)]):
        seed = HELD_OUT + work.clips + number
        other = sample_scene(seed, motion=clip.scene.motion, kind=clip.scene.actor.kind)
        video = bench.encode(clip.frames)
        sound = bench.pipeline.encode_audio(clip.waveform, AUDIO_RATE, latent_frames=len(clip.frames))
        source = AVLatent(video, sound)
        mask = time_region(source, FPS, half / FPS, clips.FRAMES / FPS + 1)
        made = bench.sample(caption(other, seed), number, latent=source, mask=mask, loras=[(lora, 1.0)])
        assert made.video is not None
        frames, plain = bench.decode(made.video), bench.decode(video)
        kept = slice(0, half)
        losses.append(
            float(psnr(plain[kept][None], clip.frames[kept][None]))
            - float(psnr(frames[kept][None], clip.frames[kept][None]))
        )
        inside = measure(frames[half:], None)
        followed.append(inside.background == other.background and other.actor.colour in inside.colours)
    yield Figure(what="outside below the VAE's", value=median(losses), most=1, unit="dB")
    yield Figure(what="both colours inside follow", value=percent(followed), least=75)


def memory(work: Work) -> Iterator[Figure]:
    """The style with the base in fp8, checkpointing and two of four blocks swapped, against plain."""
    base, text = work.in_fp8(), str(work.bench.files.text_encoder)
    # The clips are encoded by parts that both files share.
    dataset = work.encoded("style24", _styles)
    lora = work.trained(
        "memory",
        dataset,
        200,
        checkpoints=[str(base)],
        text_encoder=text,
        gradient_checkpointing=True,
        activation_offload=True,
        blocks_to_swap=2,
        **HIGH_NOISE,
    )
    plain = work.trained("style24", dataset, 200, **HIGH_NOISE)
    own, other = (_rule(_styled(work, *files)) for files in (("memory", lora, base), ("style", plain, None)))
    yield Figure(what="rule followed less often than plain", value=other - own, most=2, unit="points")


def official(work: Work) -> Iterator[Figure]:
    """Twenty steps of the official recipe in plain formulas, and of ours, from the same seed."""
    first, second, apart = curves(work.encoded("style24", _styles))
    differences = [abs(a - b) / abs(a) for a, b in zip(first, second, strict=True)]
    yield Figure(what="losses apart, at most", value=max(differences), most=1e-4, unit="of the loss")
    yield Figure(what="weights after it apart, at most", value=apart, most=1e-4, unit="of the norm")


ROWS: dict[str, tuple[str, Callable[[Work], Iterator[Figure]]]] = {
    "style": ("style LoRA: magenta backgrounds", style),
    "silent": ("the same clips without audio", silent),
    "audio": ("audio LoRA: a bell in place of knocks", audio),
    "post": ("a new kind of shape: posts", post),
    "diamond": ("a new kind of shape: diamonds", diamond),
    "ring": ("a new kind of shape, with a hole: rings", ring),
    "swap": ("IC-LoRA: colours exchanged", swap),
    "edges": ("IC-LoRA: edges at half size", edges),
    "inpaint": ("inpainting", inpaint),
    "official": ("the official recipe and ours, 20 steps", official),
    "memory": ("base in fp8, checkpointing, streaming", memory),
}
