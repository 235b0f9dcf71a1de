"""What a checkpoint of the synthetic world has learnt, judged by what is seen and heard.

Prompts and seeds are held out. Each figure stands beside what chance gives and what is aimed at; parts whose
files are missing are skipped by name. Without arguments the embedded set is judged.

    python benchmarks/semantics.py --models DIR --json semantics.json > semantics.md
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from ltx2_core import LTX2Pipeline
from ltx2_core.conditioning.items import Conditioning, GuideFrames, VideoGiven
from ltx2_core.conditioning.state import drop_guides, empty_state
from ltx2_core.loading import Component
from ltx2_core.networks import LoraFile, open_loras
from ltx2_core.request import NEGATIVE_PROMPT
from ltx2_core.sampling.denoiser import Denoiser
from ltx2_core.sampling.guidance import CFG
from ltx2_core.sampling.noise import initial_state, make_noise
from ltx2_core.sampling.samplers import sample_euler
from ltx2_core.sampling.schedules import DISTILLED_SIGMAS, ltxv_sigmas
from ltx2_core.shapes import plan_clip
from ltx2_core.tiny import embedded_dir
from ltx2_core.training.data import HELD_OUT, psnr
from ltx2_core.training.flow import time_region
from ltx2_core.training.latents import SOUND_RATE, edge_frames
from ltx2_core.training.world import (
    FPS,
    Agreement,
    Clip,
    Measured,
    agreement,
    caption,
    clip_of,
    contact_onset_distance,
    edge_iou,
    edge_map,
    edge_sharpness,
    event_distance,
    event_f1,
    listen,
    measure,
    sample_scene,
    semitones,
)
from ltx2_core.types import AVLatent, LatentState


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One cell of the table; ``least`` or ``most`` is the aim, in the unit of ``value``."""

    part: str
    what: str
    value: float
    chance: float | None = None
    least: float | None = None
    most: float | None = None
    unit: str = "%"

    @property
    def met(self) -> bool | None:
        if self.least is not None:
            return self.value >= self.least
        return None if self.most is None else self.value <= self.most


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a set; None where it has no such part."""

    checkpoints: tuple[Path, ...]
    text_encoder: Path
    upscaler: Path | None
    distilled: Path | None
    edges: Path | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    clips: int
    width: int
    height: int
    frames: int
    steps: int
    cfg: float


class Missing(Exception):
    """A part of the table needs a file that is not there."""


class Bench:
    """Clips of one checkpoint, made once where several parts look at them."""

    def __init__(self, files: Files, settings: Settings) -> None:
        self.files, self.settings = files, settings
        self.pipeline = LTX2Pipeline(
            *files.checkpoints, text_encoder=files.text_encoder, upscaler=files.upscaler, keep_loaded=True
        )

    def scenes(self, count: int | None = None, **wanted: Any) -> list[Clip]:
        """Held-out clips with their truth."""
        s = self.settings
        seeds = range(HELD_OUT, HELD_OUT + (s.clips if count is None else count))
        return [
            clip_of(sample_scene(seed, **wanted), s.frames, s.width, s.height, SOUND_RATE, caption_seed=seed)
            for seed in seeds
        ]

    @cached_property
    def truths(self) -> list[Clip]:
        return self.scenes()

    @cached_property
    def bounces(self) -> list[Clip]:
        return self.scenes(max(1, self.settings.clips // 2), motion="bounce")

    @cached_property
    def text_to_video(self) -> list[Measured]:
        return [self.generate(clip, index) for index, clip in enumerate(self.truths)]

    @cached_property
    def bouncing(self) -> list[Measured]:
        return [self.generate(clip, index) for index, clip in enumerate(self.bounces)]

    def request(self, clip: Clip, seed: int, **options: Any) -> dict[str, Any]:
        s = self.settings
        size = {"width": s.width, "height": s.height, "num_frames": s.frames, "fps": FPS}
        return {"prompt": clip.caption, "seed": seed, "steps": s.steps, "cfg": s.cfg, **size, **options}

    def generate(
        self, clip: Clip, seed: int, pipeline: LTX2Pipeline | None = None, **options: Any
    ) -> Measured:
        return measure(*self.frames_and_sound(clip, seed, pipeline, **options))

    def frames_and_sound(
        self, clip: Clip, seed: int, pipeline: LTX2Pipeline | None = None, **options: Any
    ) -> tuple[Tensor, Tensor, int]:
        made = (pipeline or self.pipeline)(**self.request(clip, seed, **options))
        return torch.cat(list(made.frames())), *made.audio()

    def reconstruct(self, clip: Clip) -> Tensor:
        return self.decode(self.encode(clip.frames))

    def encode(self, frames: Tensor) -> Tensor:
        return self.pipeline.encode_video((frames + 1) / 2)

    def decode(self, latent: Tensor) -> Tensor:
        return torch.cat(list(self.pipeline.decode_video(latent)))

    def sound(self, latent: Tensor) -> tuple[Tensor, int]:
        return self.pipeline.decode_audio(latent)

    def sample(
        self,
        prompt: str,
        seed: int,
        items: Sequence[Conditioning] = (),
        *,
        latent: AVLatent | None = None,
        mask: AVLatent | None = None,
        loras: Sequence[LoraFile] = (),
        distilled: bool = False,
    ) -> AVLatent:
        """One stage with anything given, as the pipeline samples it."""
        s = self.settings
        plan = plan_clip(s.width, s.height, frames=s.frames, fps=FPS)
        state = empty_state(plan)
        if latent is not None and mask is not None:
            state = LatentState(latent=latent, mask=mask, fps=FPS)
        for item in items:
            state = item.apply(state)
        positive, negative = self.pipeline.encode_text(prompt, NEGATIVE_PROMPT)
        sigmas = DISTILLED_SIGMAS if distilled else ltxv_sigmas(s.steps)
        scale = 1.0 if distilled else s.cfg
        with self.pipeline.networks.use(Component.TRANSFORMER, open_loras(loras)) as transformer:
            denoise = Denoiser(transformer, state, positive, negative, guidance=CFG(video=scale, audio=scale))
            noise = make_noise(state.latent, seed)
            x = sample_euler(denoise, initial_state(state, noise, float(sigmas[0])), sigmas)
        return drop_guides(x, state)

    def with_loras(self, *loras: LoraFile) -> LTX2Pipeline:
        return LTX2Pipeline(
            *self.files.checkpoints,
            text_encoder=self.files.text_encoder,
            upscaler=self.files.upscaler,
            loras=loras,
            keep_loaded=True,
        )


def video_autoencoder(bench: Bench) -> Iterator[Figure]:
    values = [float(psnr(bench.reconstruct(clip)[None], clip.frames[None])) for clip in bench.truths]
    yield Figure(part="video VAE", what="PSNR, mean", value=mean(values), least=28, unit="dB")


def audio_autoencoder(bench: Bench) -> Iterator[Figure]:
    scores, pitches = [], []
    for clip in [*bench.truths, *bench.bounces]:
        latent = bench.pipeline.encode_audio(clip.waveform, SOUND_RATE, latent_frames=len(clip.frames))
        heard = listen(*bench.sound(latent), len(clip.frames), FPS)
        truth = listen(clip.waveform, SOUND_RATE, len(clip.frames), FPS)
        seconds = len(clip.frames) / FPS
        if truth.sound == "knock":
            scores.append(
                event_f1(heard.onsets_s, truth.onsets_s, tolerance_s=0.04, seconds=seconds, margin_s=0.05)
            )
        if truth.sound != "silence":
            pitches.append(semitones(heard.pitch_hz, truth.pitch_hz) <= 1)
    yield Figure(part="audio VAE, vocoder", what="onset F1 in 40 ms", value=percent(scores), least=90)
    yield Figure(part="audio VAE, vocoder", what="pitch within a semitone", value=percent(pitches), least=90)


def text_to_video(bench: Bench) -> Iterator[Figure]:
    rates = agreements(bench.text_to_video, bench.truths)
    chance = agreements(bench.text_to_video, [*bench.truths[1:], bench.truths[0]])
    for word, least in (("colour", 90), ("background", 90), ("motion", 85), ("kind", 80), ("sound", None)):
        yield Figure(
            part="text to video", what=f"{word} right", value=rates[word], chance=chance[word], least=least
        )


def sound_belongs_to_picture(bench: Bench) -> Iterator[Figure]:
    made = bench.bouncing
    distances = [contact_onset_distance(m) for m in made]
    others = [*made[1:], *made[:1]]
    shuffled = [
        event_distance(m.contacts_s, n.onsets_s) * FPS if m.contacts_s else math.inf
        for m, n in zip(made, others, strict=True)
    ]
    yield frames_apart("sound and picture", "contact to knock", distances, shuffled)


def image_to_video(bench: Bench) -> Iterator[Figure]:
    losses, motions = [], []
    for index, clip in enumerate(bench.truths):
        first = clip.frames[:1]
        frames, sound, rate = bench.frames_and_sound(clip, index, image=(first[0] + 1) / 2, image_crf=0)
        kept = float(psnr(frames[:1][None], first[None]))
        losses.append(float(psnr(bench.decode(bench.encode(first))[None], first[None])) - kept)
        motions.append(agreement(measure(frames, sound, rate), clip.truth).motion)
    yield Figure(
        part="image to video", what="first frame below the VAE's", value=median(losses), most=1, unit="dB"
    )
    yield Figure(
        part="image to video", what="motion as prompted", value=percent(motions), chance=20, least=80
    )


def audio_to_video(bench: Bench) -> Iterator[Figure]:
    made = [
        bench.generate(clip, index, audio=(clip.waveform, SOUND_RATE))
        for index, clip in enumerate(bench.bounces)
    ]
    yield given_events(
        "audio to video", "contact to given knock", [m.contacts_s for m in made], bench.bounces
    )


def video_to_audio(bench: Bench) -> Iterator[Figure]:
    onsets = []
    for index, clip in enumerate(bench.bounces):
        latent = bench.sample(clip.caption, index, [VideoGiven(latent=bench.encode(clip.frames))])
        assert latent.audio is not None
        onsets.append(listen(*bench.sound(latent.audio), len(clip.frames), FPS).onsets_s)
    yield given_events("video to audio", "knock to given contact", onsets, bench.bounces)


def inpainting(bench: Bench) -> Iterator[Figure]:
    """The second half anew, by the prompt of a clip with the same motion and other colours."""
    losses, followed, unchanged = [], [], []
    half = (bench.settings.frames - 1) // 16 * 8 + 1
    for index, clip in enumerate(bench.truths):
        motion, seed = clip.scene.motion, HELD_OUT + bench.settings.clips + index
        other = sample_scene(seed, motion=motion, kind=clip.scene.actor.kind)
        video = bench.encode(clip.frames)
        audio = bench.pipeline.encode_audio(clip.waveform, SOUND_RATE, latent_frames=len(clip.frames))
        given = AVLatent(video, audio)
        seconds = len(clip.frames) / FPS
        made = bench.sample(
            caption(other, seed), index, latent=given, mask=time_region(given, FPS, half / FPS, seconds + 1)
        )
        assert made.video is not None
        frames, again = bench.decode(made.video), bench.decode(video)
        outside = slice(0, half)
        losses.append(
            float(psnr(again[outside][None], clip.frames[outside][None]))
            - float(psnr(frames[outside][None], clip.frames[outside][None]))
        )
        inside = measure(frames[half:], None)
        wanted = (other.background, other.actor.colour)
        followed.append(inside.background == wanted[0] and wanted[1] in inside.colours)
        before = measure(clip.frames[half:], None)
        unchanged.append(before.background == wanted[0] and wanted[1] in before.colours)
    yield Figure(part="inpainting", what="outside below the VAE's", value=median(losses), most=1, unit="dB")
    yield Figure(
        part="inpainting",
        what="both colours inside follow",
        value=percent(followed),
        chance=percent(unchanged),
        least=75,
    )


def two_stages(bench: Bench) -> Iterator[Figure]:
    if bench.files.upscaler is None:
        raise Missing("upscaler")
    sharp: dict[int, list[float]] = {1: [], 2: []}
    colours: dict[int, list[bool]] = {1: [], 2: []}
    loras = () if bench.files.distilled is None else ((bench.files.distilled, 1.0),)
    pipeline = LTX2Pipeline(
        *bench.files.checkpoints,
        text_encoder=bench.files.text_encoder,
        upscaler=bench.files.upscaler,
        stage2_loras=loras,
        keep_loaded=True,
    )
    for index, clip in enumerate(bench.truths[: max(1, bench.settings.clips // 2)]):
        for stages in (1, 2):
            frames, sound, rate = bench.frames_and_sound(clip, index, pipeline, stages=stages)
            sharp[stages].append(edge_sharpness(frames))
            colours[stages].append(agreement(measure(frames, sound, rate), clip.truth).colour)
    one, two = (mean(sharp[stages]) for stages in (1, 2))
    yield Figure(
        part="two stages", what="edge sharpness over one stage", value=two / max(one, 1e-6), least=1, unit="x"
    )
    yield Figure(
        part="two stages",
        what="colour right (one stage in the column chance)",
        value=percent(colours[2]),
        chance=percent(colours[1]),
    )


def distilled(bench: Bench) -> Iterator[Figure]:
    if bench.files.distilled is None:
        raise Missing("distilled LoRA")
    pipeline = bench.with_loras((bench.files.distilled, 1.0))
    full = score(bench.text_to_video, bench.truths)
    for stages in (1, 2) if bench.files.upscaler is not None else (1,):
        made = [
            bench.generate(clip, index, pipeline, distilled=True, stages=stages)
            for index, clip in enumerate(bench.truths)
        ]
        steps = "8 steps" if stages == 1 else "8 + 3 steps"
        yield Figure(
            part="distilled LoRA",
            what=f"{steps}, cfg 1: score over the full model's",
            value=100 * score(made, bench.truths) / max(full, 1e-6),
            least=85,
        )


def edges(bench: Bench) -> Iterator[Figure]:
    if bench.files.edges is None:
        raise Missing("edge IC-LoRA")
    agreed: dict[bool, list[float]] = {True: [], False: []}
    for index, clip in enumerate(bench.truths[: max(1, bench.settings.clips // 2)]):
        guide = GuideFrames(latent=bench.encode(edge_frames(clip.frames)), frame=0)
        for used, values in agreed.items():
            loras = [(bench.files.edges, 1.0)] if used else []
            latent = bench.sample(clip.caption, index, [guide], loras=loras)
            assert latent.video is not None
            values.append(edge_iou(edge_map(bench.decode(latent.video)), edge_map(clip.frames)))
    without = mean(agreed[False])
    yield Figure(
        part="edge IC-LoRA", what="IoU of edges", value=100 * mean(agreed[True]), chance=100 * without
    )
    yield Figure(
        part="edge IC-LoRA",
        what="over no LoRA",
        value=mean(agreed[True]) / max(without, 1e-6),
        least=2,
        unit="x",
    )


def guidance(bench: Bench) -> Iterator[Figure]:
    plain = [bench.generate(clip, index, cfg=1.0) for index, clip in enumerate(bench.truths)]
    on = agreements(bench.text_to_video, bench.truths)["colour"]
    off = agreements(plain, bench.truths)["colour"]
    yield Figure(part="guidance", what="colour right lost without it", value=on - off, least=1)


PARTS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "video-vae": video_autoencoder,
    "audio-vae": audio_autoencoder,
    "text-to-video": text_to_video,
    "sync": sound_belongs_to_picture,
    "image-to-video": image_to_video,
    "audio-to-video": audio_to_video,
    "video-to-audio": video_to_audio,
    "inpainting": inpainting,
    "two-stages": two_stages,
    "distilled": distilled,
    "edges": edges,
    "guidance": guidance,
}


def agreements(made: Sequence[Measured], clips: Sequence[Clip]) -> dict[str, float]:
    """Share of clips, in per cent, in which each word of the prompt came true."""
    rows = [agreement(m, clip.truth) for m, clip in zip(made, clips, strict=True)]
    return {word: percent([getattr(row, word) for row in rows]) for word in Agreement._fields}


def score(made: Sequence[Measured], clips: Sequence[Clip]) -> float:
    """Mean over the words that the table asks for."""
    rates = agreements(made, clips)
    return mean([rates[word] for word in ("colour", "background", "motion", "kind", "sound")])


def given_events(part: str, what: str, found: Sequence[Sequence[float]], clips: Sequence[Clip]) -> Figure:
    truth = [clip.truth.contacts_s for clip in clips]
    distances = [event_distance(a, b) * FPS for a, b in zip(found, truth, strict=True)]
    shuffled = [event_distance(a, b) * FPS for a, b in zip(found, [*truth[1:], truth[0]], strict=True)]
    return frames_apart(part, what, distances, shuffled)


def frames_apart(part: str, what: str, distances: Sequence[float], shuffled: Sequence[float]) -> Figure:
    value = median(distances) if distances else math.inf
    chance = median(shuffled) if shuffled else math.inf
    return Figure(part=part, what=f"{what}, median", value=value, chance=chance, most=2, unit="frames")


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def percent(hits: Sequence[float]) -> float:
    return 100 * mean([float(hit) for hit in hits])


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity, such as the distance to a knock that is not heard."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def find_files(options: argparse.Namespace) -> Files:
    """Explicit files first, then what lies in the model folders."""
    folder: Path = options.models
    checkpoints = options.checkpoint or sorted((folder / "checkpoints").glob("*.safetensors"))[-1:]
    text = options.text_encoder or next((folder / "text_encoders").iterdir())

    def first(given: Path | None, pattern: str) -> Path | None:
        return given or next(iter(sorted(folder.glob(pattern))), None)

    return Files(
        checkpoints=tuple(checkpoints),
        text_encoder=text,
        upscaler=first(options.upscaler, "latent_upscale_models/*.safetensors"),
        distilled=first(options.distilled, "loras/*distilled*.safetensors"),
        edges=first(options.edges, "loras/*edges*.safetensors"),
    )


def table(figures: Sequence[Figure], skipped: dict[str, str]) -> str:
    """The figures as Markdown."""
    lines = ["| part | what | value | chance | aim | |", "|---|---|---|---|---|---|"]
    for f in figures:
        aim = f"≥ {f.least:g}" if f.least is not None else "" if f.most is None else f"≤ {f.most:g}"
        chance = "" if f.chance is None else f"{f.chance:.3g}"
        verdict = "" if f.met is None else "yes" if f.met else "no"
        lines.append(f"| {f.part} | {f.what} | {f.value:.3g} {f.unit} | {chance} | {aim} | {verdict} |")
    lines += [f"| {name} | skipped: no {reason} | | | | |" for name, reason in skipped.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", nargs="*", type=Path, help="checkpoint files in place of those of --models"
    )
    parser.add_argument(
        "--models", type=Path, default=embedded_dir(), help="model folders (default: embedded)"
    )
    for name in ("text-encoder", "upscaler", "distilled", "edges"):
        parser.add_argument(f"--{name}", type=Path, help="in place of that of --models")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--clips", type=int, default=64, help="held-out prompts (default 64)")
    parser.add_argument("--size", default="128x128x25", help="width x height x frames (default 128x128x25)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    width, height, frames = (int(number) for number in options.size.split("x"))
    settings = Settings(
        clips=options.clips, width=width, height=height, frames=frames, steps=options.steps, cfg=options.cfg
    )
    bench = Bench(find_files(options), settings)
    figures: list[Figure] = []
    skipped: dict[str, str] = {}
    for name in options.only:
        start = time.monotonic()
        try:
            figures += PARTS[name](bench)
        except Missing as missing:
            skipped[name] = str(missing)
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    print(table(figures, skipped))
    if options.json:
        rows = [{**finite(asdict(figure)), "met": figure.met} for figure in figures]
        result = {"settings": asdict(settings), "figures": rows, "skipped": skipped}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
