"""The node that trains a LoRA: from a folder of clips to a file that loads, stopped and continued."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Server
from node_graphs import reports
from safetensors.torch import load_file
from tiny_models import TinyModels

from ltx2_core.media import VideoWriter
from ltx2_core.tiny import embedded_dir

DATASET = "two_clips"
STEPS = 4
PREVIEW = 1
"""The host's number for messages that hold an image."""


@pytest.fixture(scope="module")
def files(server: Server, models: TinyModels) -> Iterator[dict[str, str]]:
    """The names of the embedded model, which has all encoders, and a dataset of two clips with audio."""
    source = server.base / "input" / DATASET
    source.mkdir()
    for number in (1, 2):
        path = source / f"{number}.mp4"
        with VideoWriter(path, width=64, height=64, fps=25.0, sample_rate=48000) as writer:
            writer.write_frames(torch.full((12, 3, 64, 64), 60 * number, dtype=torch.uint8))
            writer.write_audio(torch.rand(2, 24000) - 0.5)
        path.with_suffix(".txt").write_text("a red circle bounces")
    checkpoint = next((embedded_dir() / "checkpoints").glob("*.safetensors"))
    encoder = embedded_dir() / "text_encoders" / "gemma-tiny"
    held = server.base / "models" / "checkpoints" / "train"
    held.mkdir()
    shutil.copyfile(checkpoint, held / checkpoint.name)
    shutil.copytree(encoder, server.base / "models" / "text_encoders" / "train-gemma")
    yield {
        "ckpt_name": f"train/{checkpoint.name}",
        "text_encoder": "train-gemma/model.safetensors",
    }
    # Other tests look at what the lists of files hold.
    shutil.rmtree(held)
    shutil.rmtree(server.base / "models" / "text_encoders" / "train-gemma")


def train(g: Graph, files: dict[str, str], name: str, **changes: Any) -> Link:
    inputs = {
        "dataset": DATASET,
        "name": name,
        "trigger": "zorb",
        "buckets": "64x64x9",
        "preset": "8 GB",
        "steps": STEPS,
        "learning_rate": 0.01,
        "seed": 1,
        "preview_prompt": "",
        "preview_every": 2,
        "settings": 'rank = 2\nvalidation_every = 0\nsave_precision = "float32"',
        **files,
    }
    return g.add("LTX2AVTrainLora", **{**inputs, **changes})


def trained(server: Server, name: str) -> Path:
    return server.base / "models" / "loras" / "trained" / f"{name}.safetensors"


def test_a_folder_becomes_a_lora_that_is_shown_on_the_way_and_loads(
    server: Server, files: dict[str, str]
) -> None:
    g = Graph()
    loaded = g.add("LTX2AVLoadCheckpoint", ckpt_name=files["ckpt_name"])
    targets = 'rank = 2\nvalidation_every = 0\ntargets = ["attention", "connectors"]'
    lora = train(g, files, "shown", model=loaded, preview_prompt="a red circle", steps=2, settings=targets)
    g.add("PreviewAny", source=lora[1])
    messages = server.listen(g.prompt)
    images = [m for m in messages if isinstance(m, bytes) and int.from_bytes(m[:4], "big") in (PREVIEW, 4)]
    assert len(images) >= 2, "before training and after it"
    tensors = load_file(trained(server, "shown"))
    assert all(name.startswith("diffusion_model.") for name in tensors)
    assert any("video_embeddings_connector" in name for name in tensors)
    assert any(bool(t.any()) for name, t in tensors.items() if "lora_B" in name)
    again = Graph()
    base = again.add("LTX2AVLoadCheckpoint", ckpt_name=files["ckpt_name"])
    loaded = again.add("LTX2AVLoadLora", model=base, lora="trained/shown.safetensors", strength=1.0)
    again.add("PreviewAny", source=loaded[1])
    # ComfyUI's own loader logs every key that it does not know.
    core = again.add("CheckpointLoaderSimple", ckpt_name=files["ckpt_name"])
    known = again.add(
        "LoraLoaderModelOnly", model=core, lora_name="trained/shown.safetensors", strength_model=1.0
    )
    again.add("PreviewAny", source=known)
    # Of ComfyUI-LTXVideo, if it is among the packs of COMFYUI_PACKS.
    if "LTXICLoRALoaderModelOnly" in server.get("/object_info"):
        pack = again.add(
            "LTXICLoRALoaderModelOnly", model=core, lora_name="trained/shown.safetensors", strength_model=1.0
        )
        again.add("PreviewAny", source=pack[1])
    assert "matched" in reports(server.run(again.prompt))
    assert "lora key not loaded" not in server.log()


def test_a_run_that_is_interrupted_continues_and_ends_with_the_same_weights(
    server: Server, files: dict[str, str]
) -> None:
    steps = 12  # so many that the interrupt comes before the last one
    whole = Graph()
    train(whole, files, "whole", steps=steps)
    server.run(whole.prompt)
    stopped = Graph()
    train(stopped, files, "stopped", steps=steps)
    prompt_id = server.submit(stopped.prompt)
    log = server.base / "output" / "training" / "stopped" / "log.jsonl"
    while not log.is_file() or not log.read_text():
        assert prompt_id not in server.get(f"/history/{prompt_id}"), "it ended before its first step"
        time.sleep(0.02)
    server.post("/interrupt", {})
    with pytest.raises(GraphError) as error:
        server.wait(prompt_id)
    kinds = [kind for kind, _ in error.value.detail["status"]["messages"]]
    assert "execution_interrupted" in kinds, str(error.value)
    assert not trained(server, "stopped").is_file()
    assert (log.parent / "state.safetensors").is_file()
    server.run(stopped.prompt)
    first, second = (load_file(trained(server, name)) for name in ("whole", "stopped"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../up"}, "letters, digits"),
        ({"settings": "rnak = 2"}, "did you mean rank"),
        ({"settings": 'dataset = "x"'}, "leave it out"),
        ({"settings": "rank 2"}, "one a line"),
        ({"buckets": "64x64x8"}, r"8k \+ 1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(
    server: Server, files: dict[str, str], changes: dict[str, str], words: str
) -> None:
    g = Graph()
    train(g, files, **{"name": "refused", **changes})
    with pytest.raises(GraphError, match=words):
        server.run(g.prompt)
