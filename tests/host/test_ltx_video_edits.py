"""Edits and long clips of LTX-Video in graphs: no audio is prepared, and they are those of the command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Result, Server
from ltxv_files import tiny_set, upscaler_name
from ltxv_graphs import relative, sampled_by_us, texts
from node_graphs import image, reports, sound_of
from safetensors.torch import load_file
from saved import saved_video

from ltx2_core import LTX2Pipeline
from ltx2_core.editing import Edit, Footage, LongVideo, extend, long_video, retake
from ltx2_core.run.generation import Generation
from ltx2_core.sampling.guidance import Guidance, StreamGuidance
from ltx2_core.tiny.settings import TEXT_WIDTH
from ltx2_core.tiny.write import TinySet
from ltx2_core.types import Numerics, TextContext

FPS, RATE, SIDE = 24.0, 22050, 64
FRAMES, KEPT, NEW = 29, 17, 10
LEVELS = (1.0, 0.7, 0.3)
RUN: dict[str, Any] = {
    "sigmas": LEVELS,
    "guidance": Guidance(video=StreamGuidance(cfg=3.0)),
    "sampler": "euler",
    "seed": 42,
}
"""The options of a run as the graphs sample it."""


class RandomStates(LTX2Pipeline):
    """Reads the random states of the graphs in place of those of T5."""

    def encode_text(self, prompt: str, negative_prompt: str | None = None, **options: Any) -> Any:
        return of_seed(1, valid=9), of_seed(2, valid=4)


def of_seed(seed: int, *, valid: int) -> TextContext:
    """States without their padding, which equals masking it."""
    states = torch.randn(1, 12, TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))[:, :valid]
    return TextContext(states, states[..., :0])


@pytest.fixture(scope="module")
def files(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinySet]:
    with tiny_set(base_dir, tmp_path_factory.mktemp("ltxv")) as made:
        yield made


@pytest.fixture(scope="module")
def pipeline(files: TinySet) -> LTX2Pipeline:
    return RandomStates(
        files.checkpoint,
        text_encoder=files.text_encoder,
        device="cpu",
        dtype=torch.float32,
        numerics=Numerics.COMFY,
        # ComfyUI's own VAE draws from the generator of the run, and that of this pack has noise of its own.
        decoder_noise="frame",
    )


def prepared(g: Graph, kind: str, video_vae: Link, images: Link, **more: Any) -> Link:
    """The node that prepares a retake or an extension; no audio VAE is connected."""
    ends = {"video_vae": video_vae, "images": images, "fps": FPS, "stages": "1", **more}
    if kind == "retake":
        regions = {"video_regions": "0.5-0.9", "audio_regions": "", "rounding": "cover", "paste": True}
        return g.add("LTX2AVRetake", **{**regions, **ends})
    length = {"length_unit": "frames", "length": float(NEW), "keep_frames": KEPT, "fade_frames": 0}
    return g.add("LTX2AVExtend", **length, **ends)


def levels(g: Graph) -> Link:
    return g.add("ManualSigmas", sigmas=", ".join(map(str, (*LEVELS, 0.0))))


def finished(g: Graph, loaded: Link, edit: Link, latent: Link) -> Link:
    return g.add("LTX2AVFinishEdit", edit=edit, latent=latent, video_vae=loaded[1])


def by_library(pipeline: LTX2Pipeline, kind: str, source: Footage, sampled: list[Generation]) -> Edit:
    """The edit as the command makes it, with ComfyUI's numerics; its run is added to ``sampled``."""
    options: dict[str, Any] = {**RUN, "on_sampled": sampled.append}
    if kind == "retake":
        return retake(pipeline, "a ball", source, video=[(0.5, 0.9)], allow_past_end=True, **options)
    return extend(pipeline, "a ball", source, frames=NEW, keep_frames=KEPT, fade_frames=0, **options)


@pytest.mark.parametrize("has_audio", [True, False])
@pytest.mark.parametrize("kind", ["retake", "extend"])
def test_an_edit_is_that_of_the_command(
    server: Server, files: TinySet, pipeline: LTX2Pipeline, kind: str, has_audio: bool
) -> None:
    g = Graph()
    loaded, images = g.add("LTX2AVLoadCheckpoint", ckpt_name=files.checkpoint.name), image(g, FRAMES, SIDE)
    track = sound_of(g, FRAMES / FPS, RATE, 2)
    start = prepared(g, kind, loaded[1], images, **({"audio": track} if has_audio else {}))
    latent = sampled_by_us(g, loaded, texts(g), start, levels(g))
    done = finished(g, loaded, start[2], latent)
    g.dump("start", latent=start)
    g.dump("latent", latent=latent)
    g.dump("source", image=images, audio=track)
    g.dump("done", image=done, **({"audio": done[1]} if has_audio else {}))
    name = f"ltxv_{kind}_{has_audio}"
    g.add("SaveVideo", video=done[3], filename_prefix=name, format="auto", codec="auto")
    result = server.run(g.prompt, timeout_s=300)
    assert "audio" not in reports(result)
    source, made = (result.tensors(name) for name in ("source", "done"))
    assert set(result.tensors("start")) == {"latent", "mask"}, "a latent of the video alone"
    audio = (source["waveform"][0], RATE) if has_audio else None
    footage = Footage(frames=source["image"].movedim(-1, 1), fps=FPS, audio=audio, fit="comfy")
    sampled: list[Generation] = []
    expected = by_library(pipeline, kind, footage, sampled)
    assert relative(sampled[0].latents.video, result.tensors("latent")["latent"]) < 1e-4
    frames = ((expected.frames() + 1) / 2).clamp(0, 1).movedim(1, -1)
    assert frames.shape == made["image"].shape
    assert relative(frames, made["image"]) < 1e-3
    assert_track(result, expected, made if has_audio else None)


def assert_track(result: Result, expected: Edit, made: dict[str, torch.Tensor] | None) -> None:
    """The audio of an edit is that of the command, in the graph and in the file; None is a silent clip."""
    with av.open(str(saved_video(result))) as file:
        assert len(file.streams.audio) == (made is not None)
        assert sum(1 for _ in file.decode(video=0)) == expected.frame_count
    assert bool(expected.rate) == (made is not None)
    if made is not None:
        waveform, rate = expected.audio()
        assert int(made["sample_rate"]) == rate
        torch.testing.assert_close(made["waveform"][0], waveform, rtol=0, atol=1e-6)
        assert waveform.any()


def test_the_second_stage_preserves_the_clip_at_full_size(server: Server, files: TinySet) -> None:
    g = Graph()
    # The VAE of ComfyUI's own loader tells as well that there is no audio.
    core = g.add("CheckpointLoaderSimple", ckpt_name=files.checkpoint.name)
    ours = g.add("LTX2AVLoadCheckpoint", ckpt_name=files.checkpoint.name)
    images, text = image(g, FRAMES, SIDE), texts(g)
    lists = [g.add("LTX2AVDistilledSigmas", schedule=f"ltxv_distilled_{one}") for one in ("first", "stage2")]
    start = prepared(g, "retake", core[2], images, stages="2")
    larger = g.add(
        "LTX2AVNextStage",
        positive=text,
        negative=text[1],
        latent=sampled_by_us(g, ours, text, start, lists[0]),
        upscale_model=g.add("LTX2AVLoadUpscaler", upscaler=upscaler_name(files)),
        video_vae=ours[1],
    )
    latent = sampled_by_us(g, ours, larger, larger[2], lists[1])
    g.dump("larger", latent=larger[2])
    g.dump("latent", latent=latent)
    g.dump("source", image=images)
    g.dump("done", image=finished(g, ours, start[2], latent))
    result = server.run(g.prompt, timeout_s=300)
    larger_latent, sampled = result.tensors("larger"), result.tensors("latent")["latent"]
    opened = larger_latent["mask"][0, 0, :, 0, 0].bool()
    assert opened.tolist() == [False, False, True, True]
    preserved = larger_latent["latent"][:, :, ~opened]
    torch.testing.assert_close(sampled[:, :, ~opened], preserved, atol=1e-4, rtol=1e-4)
    assert (sampled[:, :, opened] - larger_latent["latent"][:, :, opened]).abs().max() > 1e-2
    source, made = (result.tensors(name)["image"] for name in ("source", "done"))
    torch.testing.assert_close(made[:9], source[:9], atol=1e-6, rtol=0)
    assert (made[9:25] - source[9:25]).abs().max() > 1e-3


def test_a_long_clip_is_that_of_the_command(
    server: Server, files: TinySet, pipeline: LTX2Pipeline, tmp_path: Path
) -> None:
    g = Graph()
    loaded, track = g.add("LTX2AVLoadCheckpoint", ckpt_name=files.checkpoint.name), sound_of(g, 2.0, RATE, 2)
    size = {"width": SIDE, "height": SIDE, "length_unit": "frames", "length": 41.0, "fps": 8.0}
    plan = g.add("LTX2AVClipPlan", **size, snap="error", stages="1", batch_size=1, with_audio=False)
    run = {"seed": 42, "schedule": "distilled 8", "steps": 2, "cfg": 3.0, "audio_cfg": 0.0}
    run |= {"sampler": "euler", "sigmas": levels(g), "overlap_strength": 1.0, "adain": 0.0}
    ends = {"model": loaded, "video_vae": loaded[1], "plan": plan, "prompts": "a ball", "negative": "noise"}
    ends["clip"] = g.add("LTX2ProbeStatesClip", negative="noise", width=TEXT_WIDTH)
    windows = {"window_frames": 25, "overlap_frames": 16}
    for name, audio in (("silent", {}), ("heard", {"audio": track})):
        made = g.add("LTX2AVLongVideo", **ends, **run, **windows, **audio, folder=f"ltxv_{name}")
        video = g.add("LTX2AVDecodeLongVideo", windows=made, video_vae=loaded[1], crf=18)
        g.add("SaveVideo", video=video, filename_prefix=f"ltxv_{name}", format="auto", codec="auto")
    server.run(g.prompt, timeout_s=300)
    how = LongVideo(**windows)
    clip = {"width": SIDE, "height": SIDE, "num_frames": 41, "fps": 8.0, "stages": 1}
    long_video(pipeline, "a ball", how=how, folder=tmp_path, **clip, **RUN)
    expected = sorted(tmp_path.glob("**/window_*.safetensors"))
    assert len(expected) == 2
    for name in ("silent", "heard"):
        found = sorted((server.output / f"ltxv_{name}").glob("*/window_*.safetensors"))
        for ours, theirs in zip(found, expected, strict=True):
            window = load_file(ours)
            assert set(window) == {"video"}
            assert relative(load_file(theirs)["video"], window["video"]) < 1e-4
        (path,) = server.output.glob(f"ltxv_{name}_0*.mp4")
        with av.open(str(path)) as file:
            assert len(file.streams.audio) == (name == "heard")
            assert sum(1 for _ in file.decode(video=0)) == 41


@pytest.mark.parametrize("kind", ["regions", "sound"])
def test_audio_is_not_generated(server: Server, files: TinySet, kind: str) -> None:
    g = Graph()
    loaded, images = g.add("LTX2AVLoadCheckpoint", ckpt_name=files.checkpoint.name), image(g, FRAMES, SIDE)
    if kind == "regions":
        start = prepared(g, "retake", loaded[1], images, audio_regions="0.2-0.4")
    else:
        start = g.add("LTX2AVSound", video_vae=loaded[1], images=images, fps=FPS, ceiling=-20.0)
    g.dump("start", latent=start)
    with pytest.raises(GraphError, match="LTX-Video has no audio; use a model of LTX-2"):
        server.run(g.prompt, timeout_s=120)
