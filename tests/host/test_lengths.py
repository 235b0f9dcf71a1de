"""For any size, length and rate all nodes agree on one plan, and video and audio of a file end together."""

from __future__ import annotations

import random
from fractions import Fraction

import av
import pytest
from host_graph import Graph, Link
from host_server import Server
from node_graphs import checkpoint, image, plan_node, sound_of
from tiny_models import TinyModels

RATES = (8.0, 15.0, 23.976, 24.0, 25.0, 29.97, 30.0, 50.0, 60.0)


def asked(seed: int) -> dict:
    rng = random.Random(seed)
    fps = rng.choice(RATES)
    unit = rng.choice(("seconds", "frames"))
    frames = rng.randint(10, 30)
    return {
        "width": 32 * rng.randint(1, 3) + rng.randint(0, 31),
        "height": 32 * rng.randint(1, 3) + rng.randint(0, 31),
        "length_unit": unit,
        "length": float(frames) if unit == "frames" else round(frames / fps, 2),
        "fps": fps,
        "snap": rng.choice(("nearest", "floor", "ceil")),
        "stages": rng.choice(("1", "2")),
    }


def file_of(g: Graph, loaded: Link, latent: Link, plan: Link, name: str) -> None:
    values = {"fps": 1.0, "crf": 30, "batch_index": 0, "plan": plan}
    ends = {"video_vae": loaded[1], "audio_vae": loaded[2], "latent": latent}
    video = g.add("LTX2AVDecodeToVideo", **ends, **values)
    g.add("SaveVideo", video=video, filename_prefix=name, format="auto", codec="auto")


@pytest.mark.parametrize("seeds", [range(3), range(3, 6)], ids=["first", "more"])
def test_nodes_stages_and_files_agree(server: Server, models: TinyModels, seeds: range):
    g = Graph()
    loaded = checkpoint(g, models)
    upscaler = g.add("LTX2AVLoadUpscaler", upscaler=models.upsampler)
    for seed in seeds:
        values = asked(seed)
        plan = plan_node(g, **values)
        size = {"width": plan[2], "height": plan[3]}
        whole = g.add("LTX2AVEmptyLatent", **size, frames=plan[4], fps=plan[5], batch_size=1)
        first = plan[1]
        if values["stages"] == "2":
            first = g.add("LTX2AVLatentUpscale", latent=first, upscale_model=upscaler, video_vae=loaded[1])
        core = g.add("EmptyLTXVLatentVideo", **size, length=plan[4], batch_size=1)
        g.dump(f"whole{seed}", latent=whole)
        g.dump(f"stages{seed}", latent=first)
        g.dump(f"core{seed}", latent=core)
        file_of(g, loaded, whole, plan, f"length{seed}")
        frames = random.Random(seed).randint(9, 25)
        source = {"images": image(g, frames, 70, 66), "fps": values["fps"], "video_vae": loaded[1]}
        audio_inputs = {"audio": sound_of(g, frames / values["fps"], 22050, 2), "audio_vae": loaded[2]}
        edits = {
            "extend": {
                **audio_inputs,
                "length_unit": "frames",
                "length": 7.0,
                "keep_frames": 9,
                "fade_frames": 2,
            },
            "retake": {
                **audio_inputs,
                "video_regions": "0-1",
                "audio_regions": "",
                "rounding": "touch",
                "paste": True,
            },
            "sound": {"ceiling": -1.0},
        }
        for name, more in edits.items():
            stages = {} if name == "sound" else {"stages": "1"}
            node = g.add(f"LTX2AV{name.capitalize()}", **source, **more, **stages)
            file_of(g, loaded, node, node[1], f"{name}{seed}")
    result = server.run(g.prompt, timeout_s=900)
    for seed in seeds:
        fps = asked(seed)["fps"]
        whole, stages, core = (result.tensors(f"{name}{seed}") for name in ("whole", "stages", "core"))
        for key in ("latent/video", "latent/audio"):
            assert whole[key].shape == stages[key].shape
        assert core[next(k for k in core if k.startswith("latent"))].shape == whole["latent/video"].shape
        for name in ("length", "extend", "retake", "sound"):
            path = sorted(server.output.glob(f"{name}{seed}_0*.mp4"))[-1]
            with av.open(str(path)) as file:
                video, audio = file.streams.video[0], file.streams.audio[0]
                video_s, audio_s = video.duration * video.time_base, audio.duration * audio.time_base
                count = sum(1 for _ in file.decode(video=0))
            assert abs(video_s - audio_s) < Fraction(1) / Fraction(fps).limit_denominator(1001), name
            if name == "length":
                assert count == (whole["latent/video"].shape[2] - 1) * 8 + 1
            assert float(video_s) == pytest.approx(count / fps, abs=1.5e-3)
