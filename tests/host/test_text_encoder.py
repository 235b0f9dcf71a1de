"""Nodes of the host and of other packs encode, generate, patch, merge and save with our CLIP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import host_version
from host_graph import Graph, Link, load
from host_server import GraphError, Server
from node_graphs import text_encoder
from safetensors.torch import load_file, save_file
from test_ab_core import assert_same
from tiny_models import GENERATIONS, TinyModels

from ltx2_core.loading import open_checkpoint

SAMPLING = {
    "sampling_mode": "on",
    "sampling_mode.temperature": 0.7,
    "sampling_mode.top_k": 64,
    "sampling_mode.top_p": 0.95,
    "sampling_mode.min_p": 0.05,
    "sampling_mode.repetition_penalty": 1.05,
    "sampling_mode.seed": 0,
}
LAYER = "gemma3_12b.transformer.model.layers.1.mlp.up_proj"
TEXT = "a red ball rolls"


def clip_of(g: Graph, models: TinyModels, generation: str = "2.3") -> Link:
    return load(g, models, generation, model="core").clip


def encoded(g: Graph, clip: Link, text: str = TEXT) -> Link:
    return g.add("CLIPTextEncode", clip=clip, text=text)


def said(server: Server, g: Graph) -> list[str]:
    """Texts that nodes showed while the graph ran."""
    messages = [m for m in server.listen(g.prompt) if isinstance(m, bytes) and m[:4] == b"\0\0\0\3"]
    return [m[8 + int.from_bytes(m[4:8], "big") :].decode() for m in messages]


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_gemma_writes_what_the_hosts_gemma_writes(
    server: Server, models: TinyModels, generation: str, sample: bool
) -> None:
    g = Graph()
    g.add("LTX2ProbeGenerate", clip=clip_of(g, models, generation), text="say more", sample=sample)
    report = server.run(g.prompt).report()
    assert len(report["ours"]) > 1
    assert report["ours"] == report["core"]
    assert isinstance(report["text"], str)


@pytest.mark.parametrize("node", ["TextGenerate", "TextGenerateLTX2Prompt"])
def test_the_hosts_nodes_of_language_models_take_our_clip(
    server: Server, models: TinyModels, node: str
) -> None:
    g = Graph()
    made = g.add(node, clip=clip_of(g, models), prompt="a red ball", max_length=6, **SAMPLING)
    g.dump("cond", conditioning=encoded(g, clip_of(g, models), made))
    assert server.run(g.prompt).tensors("cond")["cond"].ndim == 3


def test_an_image_for_gemma_is_an_error_that_says_what_to_do(server: Server, models: TinyModels) -> None:
    g = Graph()
    image = g.add("LTX2ProbeImage", seed=1, frames=1, width=64, height=64)
    values = {"prompt": "a ball", "max_length": 4, "image": image, **SAMPLING}
    made = g.add("TextGenerateLTX2Prompt", clip=clip_of(g, models), **values)
    g.dump("cond", conditioning=encoded(g, clip_of(g, models), made))
    with pytest.raises(GraphError, match=r"image cannot be described: .* Disconnect image"):
        server.run(g.prompt)


def test_packs_that_relay_prompts_count_our_tokens(server: Server, models: TinyModels) -> None:
    g = Graph()
    g.add("LTX2ProbeTokens", clip=clip_of(g, models), parts="a red ball| rolls to the left| and falls")
    report = server.run(g.prompt).report()
    assert report["same"]
    assert not report["eos"]
    assert report["ends"] == sorted({*report["ends"]})


def a_lora(base_dir: Path) -> str:
    """A LoRA for Gemma, under the names that the host's own text encoder gives its layers."""
    generator = torch.Generator().manual_seed(5)
    tensors = {
        f"text_encoders.{LAYER}.lora_down.weight": torch.randn(2, 64, generator=generator),
        f"text_encoders.{LAYER}.lora_up.weight": torch.randn(128, 2, generator=generator),
    }
    save_file(tensors, base_dir / "models" / "loras" / "gemma.safetensors")
    return "gemma.safetensors"


def patched(g: Graph, models: TinyModels, base_dir: Path, clip: Link) -> Link:
    model = g.add("CheckpointLoaderSimple", ckpt_name=models.checkpoints["2.3"])
    values = {"lora_name": a_lora(base_dir), "strength_model": 1.0, "strength_clip": 0.8}
    return g.add("LoraLoader", model=model, clip=clip, **values)[1]


def test_a_lora_for_gemma_acts_as_on_the_hosts_gemma(
    server: Server, models: TinyModels, base_dir: Path
) -> None:
    g = Graph()
    clip = clip_of(g, models)
    with_lora = patched(g, models, base_dir, clip)
    g.dump("ours", conditioning=encoded(g, with_lora))
    g.dump("core", conditioning=g.add("LTX2ProbeCoreText", clip=with_lora, text=TEXT, padding=0))
    without = Graph()
    without.dump("plain", conditioning=encoded(without, clip_of(without, models)))
    result = server.run(g.prompt)
    assert_same(result.tensors("core"), result.tensors("ours"))
    plain = server.run(without.prompt).tensors("plain")["cond"]
    assert not torch.allclose(plain, result.tensors("ours")["cond"], atol=1e-3)


def test_a_lora_for_the_text_projection_acts_where_the_encoder_is_loaded_in_part(
    server: Server, models: TinyModels, base_dir: Path
) -> None:
    name, file = (
        "text_embedding_projection.video_aggregate_embed",
        base_dir / "models" / "loras" / "tp.safetensors",
    )
    checkpoint = open_checkpoint(base_dir / "models" / "checkpoints" / models.checkpoints["2.3"])
    rows, columns = next(i.shape for n, i in checkpoint.tensors.items() if n.endswith(f"{name}.weight"))
    tensors = {
        f"text_encoders.{name}.lora_down.weight": torch.randn(2, columns) * 0.1,
        f"text_encoders.{name}.lora_up.weight": torch.randn(rows, 2) * 0.1,
    }
    save_file(tensors, file)
    g = Graph()
    model = g.add("CheckpointLoaderSimple", ckpt_name=models.checkpoints["2.3"])
    values = {"lora_name": file.name, "strength_model": 1.0, "strength_clip": 0.8}
    clip = g.add("LoraLoader", model=model, clip=clip_of(g, models), **values)[1]
    g.dump("whole", conditioning=encoded(g, clip))
    other = Graph()
    model = other.add("CheckpointLoaderSimple", ckpt_name=models.checkpoints["2.3"])
    clip = other.add("LoraLoader", model=model, clip=clip_of(other, models), **values)[1]
    other.dump("part", conditioning=encoded(other, other.add("LTX2ProbePartialClip", clip=clip)))
    plain = Graph()
    plain.dump("plain", conditioning=encoded(plain, clip_of(plain, models)))
    whole = server.run(g.prompt).tensors("whole")["cond"]
    torch.testing.assert_close(server.run(other.prompt).tensors("part")["cond"], whole, rtol=0, atol=2e-3)
    assert not torch.allclose(server.run(plain.prompt).tensors("plain")["cond"], whole, atol=2e-2)


def test_an_embedding_acts_as_on_the_hosts_gemma(
    server: Server, models: TinyModels, base_dir: Path, comfy_dir: Path
) -> None:
    folder = base_dir / "models" / "embeddings"
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(9)
    save_file({"gemma3_12b": torch.randn(2, 64, generator=generator)}, folder / "word.safetensors")
    save_file({"clip_l": torch.randn(1, 768)}, folder / "other.safetensors")
    text = "a red embedding:word, rolls"
    g = Graph()
    clip = clip_of(g, models)
    g.dump("ours", conditioning=encoded(g, clip, text))
    g.dump("core", conditioning=g.add("LTX2ProbeCoreText", clip=clip, text=text, padding=0))
    g.dump("without", conditioning=encoded(g, clip, "a red, rolls"))
    result = server.run(g.prompt)
    # Core before 0.21 scaled embeddings of files like those of tokens.
    if host_version(comfy_dir) >= (0, 21):
        assert_same(result.tensors("core"), result.tensors("ours"))
    assert result.tensors("ours")["cond"].shape[1] == result.tensors("without")["cond"].shape[1] + 2
    for name, reason in (("missing", "is not in models/embeddings"), ("other", "has width 768, Gemma 64")):
        g = Graph()
        g.dump("cond", conditioning=encoded(g, clip_of(g, models), f"a ball embedding:{name} rolls"))
        assert any(f"embedding:{name} {reason}" in text for text in said(server, g))


def test_what_has_no_effect_is_said_on_the_node(server: Server, models: TinyModels) -> None:
    g = Graph()
    last = g.add("CLIPSetLastLayer", clip=clip_of(g, models), stop_at_clip_layer=-2)
    g.dump("cond", conditioning=encoded(g, last))
    assert any("CLIP Set Last Layer has no effect here" in text for text in said(server, g))
    g = Graph()
    g.dump("cond", conditioning=encoded(g, clip_of(g, models), "ball " * 1100))
    assert any("tokens and LTX-2 reads 1024: the rest is left out" in text for text in said(server, g))


def saved(server: Server, g: Graph, clip: Link, name: str) -> Path:
    g.add("CLIPSave", clip=clip, filename_prefix=name)
    server.run(g.prompt)
    (path,) = server.output.glob(f"{name}_0*_.safetensors")
    return path


def test_a_saved_clip_is_a_file_of_a_text_encoder(server: Server, models: TinyModels, base_dir: Path) -> None:
    g = Graph()
    path = saved(server, g, clip_of(g, models), "saved_clip")
    tensors = load_file(path)
    own = base_dir / "models" / "text_encoders"
    original = load_file(own / models.text_encoder)
    projection = load_file(base_dir / "models" / "checkpoints" / models.checkpoints["2.3"])
    expected = {name: t for name, t in projection.items() if name.startswith("text_embedding_projection.")}
    for name, tensor in {**original, **expected}.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)
    assert tensors.keys() - original.keys() - expected.keys() <= {"tokenizer_json", "spiece_model"}
    path.rename(own / "saved_clip.safetensors")
    g = Graph()
    again = g.add(
        "LTX2AVLoadTextEncoder", text_encoder="saved_clip.safetensors", ckpt_name=models.checkpoints["2.3"]
    )
    g.dump("again", conditioning=encoded(g, again))
    g.dump("before", conditioning=encoded(g, text_encoder(g, models)))
    result = server.run(g.prompt)
    for name, tensor in result.tensors("before").items():
        torch.testing.assert_close(result.tensors("again")[name], tensor, rtol=0, atol=0)


def test_a_merge_of_clips_is_their_mean(server: Server, models: TinyModels, base_dir: Path) -> None:
    g = Graph()
    plain, other = (saved_lora(server, models, base_dir, with_lora) for with_lora in (False, True))
    clips = [clip_of(g, models), patched(g, models, base_dir, clip_of(g, models))]
    merged = g.add("CLIPMergeSimple", clip1=clips[0], clip2=clips[1], ratio=0.5)
    mean = load_file(saved(server, g, merged, "merged_clip"))
    name = LAYER.removeprefix("gemma3_12b.transformer.") + ".weight"
    assert not torch.equal(plain[name], other[name])
    torch.testing.assert_close(mean[name], (plain[name] + other[name]) / 2, rtol=1e-5, atol=1e-6)


def saved_lora(
    server: Server, models: TinyModels, base_dir: Path, with_lora: bool
) -> dict[str, torch.Tensor]:
    g = Graph()
    clip = clip_of(g, models)
    one = patched(g, models, base_dir, clip) if with_lora else clip
    return load_file(saved(server, g, one, f"clip_lora_{int(with_lora)}"))


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_saved_checkpoint_holds_what_was_loaded_under_its_names(
    server: Server, models: TinyModels, base_dir: Path, generation: str
) -> None:
    g = Graph()
    loaded = load(g, models, generation, model="ours")
    name = f"saved_checkpoint_{generation}"
    values = {"vae": loaded.vae, "filename_prefix": name}
    g.add("CheckpointSave", model=loaded.model, clip=loaded.clip, **values)
    server.run(g.prompt)
    (path,) = server.output.glob(f"{name}_0*_.safetensors")
    tensors = load_file(path)
    checkpoints = base_dir / "models" / "checkpoints"
    original = load_file(checkpoints / models.checkpoints[generation])
    absent = original.keys() - tensors.keys()
    assert all(name.startswith(("audio_vae.", "vocoder.")) for name in absent), sorted(absent)[:5]
    for name in original.keys() & tensors.keys():
        torch.testing.assert_close(tensors[name], original[name], rtol=0, atol=0)
    assert all(name.startswith("text_encoders.") for name in tensors.keys() - original.keys())
    with_config(path, checkpoints / models.checkpoints[generation], checkpoints / path.name)
    g = Graph()
    for loader in ("CheckpointLoaderSimple", "LTX2AVLoadCheckpoint"):
        more = {"audio_vae": "none"} if loader == "LTX2AVLoadCheckpoint" else {}
        model = g.add(loader, ckpt_name=path.name, **more)
        g.add("LTX2ProbeModel", model=model)
    server.run(g.prompt)


def with_config(source: Path, described: Path, target: Path) -> None:
    """Copy a file, with the description of its networks, which the host does not save."""
    from safetensors import safe_open

    with safe_open(described, "pt") as file:
        metadata = {"config": json.dumps(json.loads(file.metadata()["config"]))}
    save_file(load_file(source), target, metadata)
