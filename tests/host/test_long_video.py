"""Long clips: windows, sources, tiles, and resuming after the server is killed."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import av
import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Server
from node_graphs import checkpoint, image, plan_node, prompt, reports, sound_of, stage, text_encoder
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_ab_guides import our_guide
from tiny_models import TinyModels

FPS, FRAMES = 8.0, 57


def long_graph(g: Graph, models: TinyModels, model: Link | None = None, **changes) -> tuple[Link, Link]:
    """The loaded checkpoint and the long video node; three windows of 25 frames."""
    loaded = checkpoint(g, models)
    size = {"width": 64, "height": changes.pop("height", 64), "stages": "1"}
    plan = plan_node(g, **size, length_unit="frames", length=float(FRAMES), fps=FPS)
    values = {
        "prompts": "0-3: a red ball\n3: a blue square",
        "negative": "noise",
        "seed": 7,
        "schedule": "distilled 8",
        "steps": 2,
        "cfg": 1.0,
        "audio_cfg": 0.0,
        "sampler": "euler",
        "sigmas": g.add("ManualSigmas", sigmas="1.0, 0.5, 0.0"),
        "window_frames": 25,
        "overlap_frames": 16,
        "overlap_strength": 1.0,
        "adain": 0.5,
        "folder": "long",
        **changes,
    }
    ends = {"model": model or loaded, "clip": text_encoder(g, models), "video_vae": loaded[1], "plan": plan}
    return loaded, g.add("LTX2AVLongVideo", **ends, **{k: v for k, v in values.items() if v is not None})


def saved(g: Graph, loaded: Link, made: Link, name: str, **more) -> None:
    ends = {"windows": made, "video_vae": loaded[1], "audio_vae": loaded[2]}
    video = g.add("LTX2AVDecodeLongVideo", **ends, crf=18, **more)
    g.add("SaveVideo", video=video, filename_prefix=name, format="auto", codec="auto")


def clip_file(server: Server, name: str) -> Path:
    return sorted(server.output.glob(f"{name}_0*.mp4"))[-1]


def content(path: Path) -> tuple[str, int, float]:
    """A digest of the packets of a file, the number of frames, and the seconds of its audio."""
    digest = hashlib.sha256()
    with av.open(str(path)) as file:
        for packet in file.demux():
            digest.update(bytes(packet))
    with av.open(str(path)) as file:
        frames = sum(1 for _ in file.decode(video=0))
    with av.open(str(path)) as file:
        samples = sum(frame.samples for frame in file.decode(audio=0))
        return digest.hexdigest(), frames, samples / file.streams.audio[0].rate


def second_base(server: Server, folder: Path) -> Path:
    """A folder for another server with the same models, nodes and output."""
    for name in ("models", "custom_nodes", "input", "output"):
        (folder / name).symlink_to(server.base / name, target_is_directory=True)
    return folder


def test_a_long_clip_has_its_length_and_is_not_sampled_twice(server: Server, models: TinyModels):
    for there in (0, 3):
        g = Graph()
        if there:
            # A node that leads nowhere gives all others another number.
            g.add("PrimitiveInt", value=there)
            # Or the host answers with what it remembers of the first run.
            server.free(unload_models=True, free_memory=True)
        loaded, made = long_graph(g, models)
        saved(g, loaded, made, f"long{there}")
        result = server.run(g.prompt, timeout_s=900)
        assert f"3 windows of up to 25 frames for 57 frames; {there} of them reused" in reports(result)
    one, two = (content(clip_file(server, f"long{there}")) for there in (0, 3))
    assert one == two
    assert one[1] == FRAMES
    assert abs(one[2] - FRAMES / FPS) < 1 / FPS


@pytest.mark.parametrize(
    "case", ["keyframes", "sound", "control", "small_control", "video_to_video", "tiles", "preset"]
)
def test_every_conditioning_changes_a_long_clip(server: Server, models: TinyModels, case: str):
    g = Graph()
    source = image(g, FRAMES, 64, 64)
    changes = {
        "keyframes": {"keyframes": image(g, 2), "keyframe_frames": "30, -1", "image": image(g, 9)},
        "sound": {"audio": sound_of(g, FRAMES / FPS, 22050, 2), "audio_vae": checkpoint(g, models)[2]},
        "control": {"source": source},
        "small_control": {"source": source, "downscale": 2},
        "video_to_video": {"source": source, "source_strength": 0.0, "denoise": 0.5, "sigmas": None},
        "tiles": {"height": 96},
        "preset": {"preset": "distilled 8", "sigmas": None},
    }[case]
    model = None
    if case == "tiles":
        model = g.add("LTX2AVSpatialTiles", model=checkpoint(g, models), columns=1, rows=2, overlap=1)
    if case == "preset":
        scales = {"cfg": 1.0, "stg": 0.0, "modality": 1.0, "rescale": 0.0}
        numbers = {"sampler": "euler", "eta": 1.0, "stg_blocks": ""}
        numbers |= {f"{stream}_{k}": v for stream in ("video", "audio") for k, v in scales.items()}
        changes |= {f"preset.{name}": value for name, value in numbers.items()}
    if case == "sound":
        g.dump("sound", audio=changes["audio"])
    loaded, made = long_graph(g, models, model, **changes)
    saved(g, loaded, made, case)
    _, plain = long_graph(g, models, height=changes.get("height", 64))
    saved(g, loaded, plain, f"{case}_plain")
    server.run(g.prompt, timeout_s=500)
    found, other = (content(clip_file(server, name)) for name in (case, f"{case}_plain"))
    assert found[0] != other[0]
    assert found[1] == other[1] == FRAMES
    assert abs(found[2] - FRAMES / FPS) < 1 / FPS


def test_a_server_that_is_killed_ends_with_the_identical_file(
    server: Server, models: TinyModels, comfy_dir: Path, tmp_path: Path
):
    g = Graph()
    loaded, made = long_graph(g, models, seed=11, folder="whole")
    saved(g, loaded, made, "whole")
    server.run(g.prompt, timeout_s=900)
    graph = Graph()
    loaded, made = long_graph(graph, models, seed=11, folder="killed")
    saved(graph, loaded, made, "killed")
    first = Server(comfy_dir, second_base(server, tmp_path))
    first.wait_ready()
    first.post("/prompt", {"prompt": graph.prompt, "client_id": "killed"})
    end = time.monotonic() + 900
    windows: list[Path] = []
    while not windows and time.monotonic() < end:
        windows = [*(server.output / "killed").glob("*/window_00000.safetensors")]
        time.sleep(0.05)
    first.kill()
    finished = {path: path.stat().st_mtime_ns for path in windows[0].parent.glob("window_*")}
    assert 1 <= len(finished) < 3
    again = server.run(graph.prompt, timeout_s=900)
    assert f"{len(finished)} of them reused" in reports(again)
    assert all(path.stat().st_mtime_ns == at for path, at in finished.items())
    assert content(clip_file(server, "whole")) == content(clip_file(server, "killed"))


@pytest.mark.parametrize("kind", ["checkpoints", "loras"])
def test_windows_of_other_weights_under_the_same_name_are_refused(
    server: Server, models: TinyModels, kind: str
):
    file = server.base / "models" / kind / f"exchanged_{kind}.safetensors"
    original = file.with_name({"checkpoints": models.checkpoints["2.3"], "loras": models.lora}[kind])
    file.write_bytes(original.read_bytes())

    def graph() -> Graph:
        g = Graph()
        loaded = checkpoint(g, models)
        if kind == "checkpoints":
            model = g.add("LTX2AVLoadCheckpoint", ckpt_name=file.name)
        else:
            model = g.add("LTX2AVLoadLora", model=loaded, lora=file.name, strength=1.0)
        saved(g, *long_graph(g, models, model, seed=21, folder=f"exchanged_{kind}"), "exchanged")
        return g

    server.run(graph().prompt, timeout_s=900)
    (last,) = (server.output / f"exchanged_{kind}").glob("*/window_00002.safetensors")
    last.unlink()
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    # Weights of attention, which are in both kinds of file.
    changed = {name: tensor * 1.5 if "attn1" in name else tensor for name, tensor in tensors.items()}
    save_file(changed, file, metadata=metadata)
    server.free(unload_models=True, free_memory=True)
    named = {"checkpoints": "model", "loras": "model LoRAs"}[kind]
    with pytest.raises(GraphError, match=rf"windows of other models \({named} changed\)"):
        server.run(graph().prompt, timeout_s=900)
    file.write_bytes(original.read_bytes())
    server.free(unload_models=True, free_memory=True)
    again = server.run(graph().prompt, timeout_s=900)
    assert "2 of them reused" in reports(again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_frames": 24}, "must be 8k"),
        ({"folder": "../elsewhere"}, "within the output folder"),
        ({"denoise": 0.5}, "set a source"),
        ({"prompts": "0: a\n2: b\n1: c"}, "line 3, column 1: the prompts must follow each other"),
    ],
)
def test_impossible_inputs_are_errors_with_the_reason(
    server: Server, models: TinyModels, changes: dict, message: str
):
    g = Graph()
    loaded, made = long_graph(g, models, **changes)
    saved(g, loaded, made, "wrong")
    with pytest.raises(GraphError, match=message):
        server.run(g.prompt, timeout_s=300)


def test_a_short_source_and_keyframes_without_a_frame_are_refused(server: Server, models: TinyModels):
    for name, count, message in (
        ("source", 20, "20 frames and the clip needs 57"),
        ("keyframes", 1, "one number"),
    ):
        g = Graph()
        loaded, made = long_graph(g, models, **{name: image(g, count, 64, 64)})
        saved(g, loaded, made, "wrong")
        with pytest.raises(GraphError, match=message):
            server.run(g.prompt, timeout_s=300)


def test_tiles_need_our_model(server: Server, models: TinyModels):
    g = Graph()
    core = g.add("CheckpointLoaderSimple", ckpt_name=models.checkpoints["2.3"])
    g.add("LTX2ProbeModel", model=g.add("LTX2AVSpatialTiles", model=core, columns=2, rows=1, overlap=1))
    with pytest.raises(GraphError, match="tiles need the model"):
        server.run(g.prompt, timeout_s=300)


def test_one_tile_changes_nothing_and_two_change_little(server: Server, models: TinyModels):
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    latent = g.add("LTX2AVEmptyLatent", width=192, height=64, frames=9, fps=24.0, batch_size=1)
    guided = our_guide(g, loaded[1], text, latent, image(g), 0, 0.5)
    for columns in (0, 1, 2):
        values = {"columns": columns, "rows": 1, "overlap": 2}
        model = g.add("LTX2AVSpatialTiles", model=loaded, **values) if columns else loaded
        g.dump(str(columns), latent=stage(g, model, guided, guided[2]))
    result = server.run(g.prompt, timeout_s=300)
    none, one, two = (result.tensors(str(columns)) for columns in (0, 1, 2))
    for name, whole in none.items():
        torch.testing.assert_close(one[name], whole, atol=1e-5, rtol=1e-5)
        assert two[name].shape == whole.shape
    assert not torch.equal(two["latent/video"], none["latent/video"])
