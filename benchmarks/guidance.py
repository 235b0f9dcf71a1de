"""Time of a sampling step with each preset, against diffusers and ComfyUI core with the same weights.

    python benchmarks/guidance.py --threads 1 --repeats 3 --comfy COMFYUI_DIR
    python benchmarks/guidance.py --cache
    python benchmarks/guidance.py --previews

A sampling step has all guidance passes and the arithmetic of the sampler. diffusers batches the negative and
the positive prompt in one call, and runs the other guidance passes one by one; as it has no res_2s, twice its
step stands for that. Core's guider batches both prompts too and has no other guidance pass, so it is a peer
only of presets with cfg alone. Runs alternate; a ratio is the median of ours / theirs in CPU time, below 1 is
faster. ``blocks a step`` is the number of computed transformer blocks, of those that all passes would
compute.

``--cache`` measures caches and skipped guidance on the embedded set: forward passes saved, and the relative
distance of the latents from those without. ``--previews`` measures one preview of a large clip.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from core_step import build_core, core_velocities
from torch import Tensor
from transformer_step import Case, alternate, build

from ltx2_core.conditioning.state import empty_state
from ltx2_core.config import TransformerConfig
from ltx2_core.run.pipeline import LTX2Pipeline
from ltx2_core.sampling.caching import StepCache
from ltx2_core.sampling.denoiser import Denoiser
from ltx2_core.sampling.guidance import Guidance, Pass, StreamGuidance
from ltx2_core.sampling.model_calls import ModelCalls
from ltx2_core.sampling.noise import initial_state, make_noise
from ltx2_core.sampling.presets import PRESETS, Preset
from ltx2_core.sampling.previews import LinearMap, Previews
from ltx2_core.sampling.samplers import EVALUATIONS, get_sampler
from ltx2_core.shapes import plan_clip
from ltx2_core.training.world import caption, sample_scene
from ltx2_core.training.world.batches import HELD_OUT
from ltx2_core.transformer import Runner, Transformer
from ltx2_core.types import AVLatent, TextContext

FPS = 24.0
BLOCKS = (2,)
TEXT = 64


def case() -> Case:
    """A small network of generation 2.3, and a clip of 480 video tokens."""
    config = TransformerConfig(
        num_layers=4,
        heads=4,
        head_dim=48,
        audio_head_dim=24,
        caption_channels=192,
        caption_projection=False,
        gated_attention=True,
        cross_attention_adaln=True,
    )
    return Case(name="tiny-2.3", config=config, dtype=torch.float32, grid=(5, 8, 12), text=TEXT)


class Ours:
    """Sampling steps of one clip with our denoiser."""

    def __init__(self, model: Transformer, grid: tuple[int, int, int]) -> None:
        frames, height, width = grid
        self.model = model
        plan = plan_clip(32 * width, 32 * height, frames=8 * (frames - 1) + 1, fps=FPS)
        self.state = empty_state(plan)
        self.noise = make_noise(self.state.latent, 0)
        generator = torch.Generator().manual_seed(1)
        c = model.config
        self.texts = [
            TextContext(
                torch.randn(1, TEXT, c.dim, generator=generator),
                torch.randn(1, TEXT, c.audio_dim, generator=generator),
            )
            for _ in range(2)
        ]

    def step(self, preset: Preset, passes_per_call: int = 1) -> Callable[[], AVLatent]:
        """The second sampling step of a preset; it never ends at noise level 0."""
        guidance = preset.guidance(BLOCKS)
        denoise = Denoiser(
            Runner(self.model),
            self.state,
            *self.texts,
            guidance=guidance,
            calls=ModelCalls(passes_per_call=passes_per_call, on_block=self._count),
        )
        sigmas = preset.sigmas()[1:3]
        self.blocks = 0
        x = initial_state(self.state, self.noise, float(sigmas[0]))
        sampler = get_sampler(preset.sampler, eta=preset.eta)
        return lambda: sampler(denoise, x, sigmas, generator=torch.Generator().manual_seed(0))

    def _count(self, _block: int) -> None:
        self.blocks += 1

    def evaluations(self, preset: Preset) -> int:
        """Forward passes of a whole run, counted without running the network."""
        passes = len(preset.guidance(BLOCKS).passes())
        calls = preset.steps * EVALUATIONS.get(preset.sampler, 1) + (preset.sampler == "res_2s")
        return passes * calls


class Theirs:
    """Sampling steps of the same clip with diffusers' transformer, called as its pipeline calls it."""

    def __init__(self, model: torch.nn.Module, ours: Ours, grid: tuple[int, int, int]) -> None:
        from ltx2_core.conditioning.patchify import (
            audio_positions,
            patchify_audio,
            patchify_video,
            video_positions,
        )

        noise = ours.noise
        assert noise.video is not None
        assert noise.audio is not None
        self.model = model
        self.tokens = (patchify_video(noise.video), patchify_audio(noise.audio))
        self.texts = ours.texts
        self.positions = (video_positions(*grid, FPS), audio_positions(noise.audio.shape[2]))

    def call(self, texts: list[TextContext], sigma: float, **options: object) -> list[Tensor]:
        many = len(texts)
        level = torch.full((many,), 1000 * sigma)
        found = self.model(
            hidden_states=self.tokens[0].repeat(many, 1, 1),
            audio_hidden_states=self.tokens[1].repeat(many, 1, 1),
            encoder_hidden_states=torch.cat([text.video for text in texts]),
            audio_encoder_hidden_states=torch.cat([text.audio for text in texts]),
            timestep=level,
            audio_timestep=level,
            sigma=level,
            audio_sigma=level,
            video_coords=self.positions[0].repeat(many, 1, 1, 1),
            audio_coords=self.positions[1].repeat(many, 1, 1, 1),
            return_dict=False,
            **options,
        )
        return [velocity.float() for velocity in found[:2]]

    def step(self, preset: Preset, guidance: Guidance) -> Callable[[], list[Tensor]]:
        sigma, sigma_next = preset.sigmas()[1:3].tolist()
        passes = guidance.passes()
        times = EVALUATIONS.get(preset.sampler, 1)

        def once() -> list[Tensor]:
            estimates: dict[Pass, list[Tensor]] = {}

            def x0(velocities: list[Tensor]) -> list[Tensor]:
                return [x - sigma * v for x, v in zip(self.tokens, velocities, strict=True)]

            if Pass.NEGATIVE in passes:
                found = x0(self.call([self.texts[1], self.texts[0]], sigma))
                estimates[Pass.NEGATIVE] = [t[:1] for t in found]
                estimates[Pass.CONDITIONAL] = [t[1:] for t in found]
            else:
                estimates[Pass.CONDITIONAL] = x0(self.call([self.texts[0]], sigma))
            if Pass.PERTURBED in passes:
                options = {"spatio_temporal_guidance_blocks": list(BLOCKS)}
                estimates[Pass.PERTURBED] = x0(self.call([self.texts[0]], sigma, **options))
            if Pass.APART in passes:
                estimates[Pass.APART] = x0(self.call([self.texts[0]], sigma, isolate_modalities=True))
            guided = [
                stream.combine({which: e[index] for which, e in estimates.items()})
                for index, stream in enumerate((guidance.video, guidance.audio))
            ]
            pairs = zip(self.tokens, guided, strict=True)
            return [x0 + (x - x0) * (sigma_next / sigma) for x, x0 in pairs]

        def step() -> list[Tensor]:
            for _ in range(times):
                result = once()
            return result

        return step


class Core:
    """Sampling steps of the same clip with core's network, called as core's guider calls it."""

    def __init__(self, folder: Path, ours: Ours) -> None:
        noise = ours.noise
        assert noise.video is not None
        assert noise.audio is not None
        self.model = build_core(folder, ours.model)
        self.latents = [noise.video, noise.audio]
        self.contexts = [torch.cat((text.video, text.audio), dim=-1) for text in ours.texts]

    def step(self, preset: Preset, guidance: Guidance) -> Callable[[], list[Tensor]] | None:
        passes = guidance.passes()
        if {*passes} - {Pass.CONDITIONAL, Pass.NEGATIVE} or EVALUATIONS.get(preset.sampler, 1) > 1:
            return None
        sigma, sigma_next = preset.sigmas()[1:3].tolist()

        def step() -> list[Tensor]:
            contexts = self.contexts[: len(passes)]
            found = core_velocities(self.model, self.latents, contexts, sigma, FPS)
            estimates = [[x - sigma * v for x, v in zip(self.latents, one, strict=True)] for one in found]
            scales = (guidance.video.cfg, guidance.audio.cfg)
            result = []
            for x, scale, *each in zip(self.latents, scales, *estimates, strict=True):
                x0 = each[-1] + scale * (each[0] - each[-1])
                result.append(x0 + (x - x0) * (sigma_next / sigma))
            return result

        return step


def compare(repeats: int, comfy: Path | None) -> None:
    """Print the table of presets."""
    bench = case()
    model, peer = build(bench)
    ours = Ours(model, bench.grid)
    theirs = Theirs(peer, ours, bench.grid)
    core = None if comfy is None else Core(comfy, ours)
    print("| preset | passes of a run | passes a step | blocks a step | s | over diffusers | over core |")
    print("|---|---|---|---|---|---|---|")
    for name, preset in PRESETS.items():
        guidance = preset.guidance(BLOCKS)
        passes = len(guidance.passes()) * EVALUATIONS.get(preset.sampler, 1)
        ours.step(preset)()
        blocks = f"{ours.blocks} of {passes * len(model.transformer_blocks)}"
        seconds, _, _, cpu = alternate(ours.step(preset), theirs.step(preset, guidance), repeats)
        core_step = None if core is None else core.step(preset, guidance)
        ratio = "" if core_step is None else f"{alternate(ours.step(preset), core_step, repeats)[3]:.2f}"
        row = f"{ours.evaluations(preset)} | {passes} | {blocks} | {seconds:.3f} | {cpu:.2f} | {ratio}"
        print(f"| {name} | {row} |", flush=True)


def measure_caches() -> None:
    """Print forward passes and errors of caches and skipped guidance on the embedded set."""
    pipeline = LTX2Pipeline.embedded(dtype=torch.float32, keep_loaded=True)
    size = {"width": 128, "height": 128, "num_frames": 25, "steps": 20, "fps": 25.0}
    # Prompts name everything: what they leave open depends on the noise, and on the smallest error too.
    prompts = [caption(sample_scene(HELD_OUT + index), HELD_OUT + index) for index in range(4)]
    exact = [pipeline(prompt, seed=seed, **size) for seed, prompt in enumerate(prompts)]
    print("| cache | threshold | passes run | passes saved | video error | audio error |")
    print("|---|---|---|---|---|---|")

    def report(name: str, **change: Any) -> None:
        cached = [pipeline(replace(clip.request, **change)) for clip in exact]
        used = [clip.evaluations[0] for clip in cached]
        errors = [
            mean(float((a - b).norm() / b.norm()) for a, b in zip(approximate, true, strict=True))
            for approximate, true in (
                ([c.latents.video for c in cached], [c.latents.video for c in exact]),
                ([c.latents.audio for c in cached], [c.latents.audio for c in exact]),
            )
        ]
        counts = mean(u.run for u in used), mean(u.reused for u in used)
        print(f"| {name} | {counts[0]:g} | {counts[1]:g} | {errors[0]:.3f} | {errors[1]:.3f} |", flush=True)

    report("none | ")
    for kind, thresholds in (("first_block", (0.3, 0.5, 0.7)), ("timestep", (0.3, 0.6, 1.0))):
        for threshold in thresholds:
            report(f"{kind} | {threshold}", cache=StepCache(kind=kind, threshold=threshold))
    for skip in (1, 2):
        stream = StreamGuidance(cfg=4.0, skip_steps=skip)
        report(f"skip_steps | {skip}", guidance=Guidance(video=stream, audio=stream))


def measure_previews(repeats: int) -> None:
    """Print the CPU milliseconds of one preview by linear maps."""
    generator = torch.Generator().manual_seed(0)
    maps = [LinearMap(torch.randn(128, n, generator=generator), torch.zeros(n)) for n in (3, 1)]
    previews = Previews(colour=maps[0], loudness=maps[1], quiet=-8.0, loud=0.0)
    print("| clip | frame and audio levels, ms |")
    print("|---|---|")
    for width, height, frames in ((768, 512, 121), (1920, 1088, 121)):
        clip = empty_state(plan_clip(width, height, frames=frames, fps=FPS)).latent
        assert clip.video is not None
        assert clip.audio is not None
        times = []
        for _ in range(repeats + 1):
            start = time.process_time()
            previews.colours(clip.video, clip.video.shape[2] // 2)
            previews.levels(clip.audio)
            times.append(time.process_time() - start)
        print(f"| {width}x{height}x{frames} | {1000 * median(times[1:]):.2f} |", flush=True)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--cache", action="store_true", help="measure caches and skipped guidance on the embedded set"
    )
    parser.add_argument("--previews", action="store_true", help="measure a preview")
    parser.add_argument("--comfy", type=Path, help="a checkout of ComfyUI to compare with")
    args = parser.parse_args()
    sys.argv[1:] = []  # ComfyUI parses the command line too.
    torch.set_num_threads(args.threads)
    if args.cache:
        measure_caches()
    elif args.previews:
        measure_previews(args.repeats)
    else:
        compare(args.repeats, args.comfy)


if __name__ == "__main__":
    main()
