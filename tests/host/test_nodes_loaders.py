"""Loaders: single, split and quantised files give the same, lists hold what loads, the rest is explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Result, Server
from node_graphs import FPS, assert_equal, checkpoint, our_latent, prompt, stage, text_encoder
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import TinyModels
from torch import Tensor

from ltx2_core.loading import open_checkpoint
from ltx2_core.loading.convert import convert, split_parts
from ltx2_core.storage.dequantize import Format, decode
from ltx2_core.storage.quantize import encode

DIT = "model.diffusion_model."
CONNECTORS = (f"{DIT}video_embeddings_connector.", f"{DIT}audio_embeddings_connector.")
FORMATS = {
    "fp8 marked": (Format("float"), "float8_e4m3fn"),
    "fp8 official": (Format("float"), ""),
    "nvfp4": (Format("nvfp4"), "nvfp4"),
    "int8": (Format("int8", 16), "int8_tensorwise"),
}


@pytest.fixture(scope="module")
def folder(models: TinyModels, base_dir: Path) -> Path:
    """The model folders, with the parts of the tiny checkpoint in other layouts."""
    root = base_dir / "models"
    path = root / "checkpoints" / models.checkpoints["2.3"]
    tensors, metadata = load_file(path), metadata_of(path)
    parts = {
        "diffusion_models/only.safetensors": {
            name.removeprefix(DIT): t
            for name, t in tensors.items()
            if name.startswith(DIT) and not name.startswith(CONNECTORS)
        },
        "text_encoders/parts.safetensors": {
            name: t
            for name, t in tensors.items()
            if name.startswith((*CONNECTORS, "text_embedding_projection."))
        },
        "vae/video.safetensors": {
            n.removeprefix("vae."): t for n, t in tensors.items() if n.startswith("vae.")
        },
        "vae/audio.safetensors": {
            n: t for n, t in tensors.items() if n.startswith(("audio_vae.", "vocoder."))
        },
    }
    for name, own in parts.items():
        (root / name).parent.mkdir(exist_ok=True)
        save_file(own, root / name, metadata)
    pieces = root / "diffusers" / "pieces"
    pieces.mkdir(parents=True)
    opened = [open_checkpoint(path)]
    for name, components in split_parts(opened).items():
        convert(pieces / f"{name}.safetensors", opened, components, fp8=False)
    for kind in FORMATS:
        stored, decoded = quantised(tensors, *FORMATS[kind])
        save_file(stored, root / "checkpoints" / f"{kind}.safetensors", metadata)
        save_file(decoded, root / "checkpoints" / f"{kind} decoded.safetensors", metadata)
    pack_text_encoders(root / "text_encoders", root / "text_encoders" / Path(models.text_encoder).parent)
    return root


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def quantised(
    tensors: dict[str, Tensor], form: Format, mark: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(stored, decoded) with the matrices of the video's attention in ``form``."""
    stored, decoded = dict(tensors), dict(tensors)
    for name, weight in tensors.items():
        if not name.startswith(f"{DIT}transformer_blocks.") or ".attn1.to_" not in name or weight.ndim != 2:
            continue
        if not name.endswith(".weight") or "gate" in name:
            continue
        layer, parts = name.removesuffix(".weight"), encode(form, weight)
        stored |= {f"{layer}.{suffix}": part.contiguous() for suffix, part in parts.items()}
        decoded[name] = decode(layer, form, parts, tuple(weight.shape))
        if mark:
            rotation = {"convrot": True, "convrot_groupsize": form.rotation} if form.rotation else {}
            raw = json.dumps({"format": mark, **rotation}).encode()
            stored[f"{layer}.comfy_quant"] = torch.tensor(list(raw), dtype=torch.uint8)
        else:
            stored[f"{layer}.input_scale"] = torch.tensor(1.0)
    return stored, decoded


def pack_text_encoders(target: Path, folder: Path) -> None:
    """Single files of the tiny Gemma as ComfyUI packs them, plain and in fp8."""
    tensors = {
        f"model.{n.removeprefix('model.')}": t for n, t in load_file(folder / "model.safetensors").items()
    }
    content = (folder / "tokenizer.json").read_bytes()
    tensors["tokenizer_json"] = torch.tensor(list(content), dtype=torch.uint8)
    save_file(tensors, target / "gemma.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        layer = name.removesuffix(".weight")
        tensors |= {
            f"{layer}.{suffix}": part for suffix, part in encode(Format("float"), tensors[name]).items()
        }
        raw = json.dumps({"format": "float8_e4m3fn"}).encode()
        tensors[f"{layer}.comfy_quant"] = torch.tensor(list(raw), dtype=torch.uint8)
    save_file(tensors, target / "gemma_fp8.safetensors")
    save_file({"shared.weight": torch.zeros(2, 2)}, target / "t5.safetensors")


def everything(g: Graph, models: TinyModels, **changes: str) -> Link:
    names = {
        "ckpt_name": models.checkpoints["2.3"],
        "text_encoder": models.text_encoder,
        "upscaler": "none",
    }
    return g.add("LTX2AVLoadAll", **{**names, **changes})


def sampled(g: Graph, name: str, loaded: Link) -> None:
    """Dump a clip of a model set: latents, frames and sound."""
    latent = stage(g, loaded, prompt(g, loaded[1]), our_latent(g))
    frames = g.add("LTX2AVDecodeVideo", video_vae=loaded[2], latent=latent)
    sound = g.add("LTX2AVDecodeAudio", audio_vae=loaded[3], latent=latent)
    g.dump(name, latent=latent, image=frames, audio=sound)


SPLIT = {
    "video_vae": "video.safetensors",
    "audio_vae": "audio.safetensors",
    "text_parts": "parts.safetensors",
}


@pytest.mark.parametrize(
    "names",
    [{"ckpt_name": "diffusion_models/only.safetensors", **SPLIT}, {"ckpt_name": "diffusers/pieces"}],
    ids=["split files", "folder"],
)
def test_other_layouts_give_the_clip_of_the_single_file(
    server: Server, models: TinyModels, folder: Path, names
):
    g = Graph()
    sampled(g, "single", everything(g, models))
    sampled(g, "ours", everything(g, models, **names))
    assert_equal(server.run(g.prompt), "ours", "single")


def test_a_model_alone_needs_no_vae(server: Server, models: TinyModels, folder: Path):
    g = Graph()
    names = {"ckpt_name": "diffusion_models/only.safetensors", "text_parts": "parts.safetensors"}
    loaded = g.add("LTX2AVLoadCheckpoint", **names, video_vae="none", audio_vae="none")
    g.dump("x", latent=stage(g, loaded, prompt(g, text_encoder(g, models)), our_latent(g)))
    assert "latent/video" in server.run(g.prompt).tensors("x")
    g = Graph()
    g.dump("x", latent=our_latent(g), image=decoded(g, g.add("LTX2AVLoadCheckpoint", **names)[1]))
    with pytest.raises(
        GraphError, match=r"has no video encoder; .*Choose a file in video_vae \(LTX2_video_vae"
    ):
        server.run(g.prompt)


def decoded(g: Graph, vae: Link) -> Link:
    return g.add("LTX2AVDecodeVideo", video_vae=vae, latent=our_latent(g))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_hosts_quantised_layers_give_what_the_decoded_weights_do(
    server: Server, models: TinyModels, folder: Path, kind: str
):
    g = Graph()
    text = prompt(g, text_encoder(g, models))
    for name, file in (("ours", kind), ("exact", f"{kind} decoded")):
        loaded = g.add("LTX2AVLoadCheckpoint", ckpt_name=f"{file}.safetensors")
        g.dump(name, latent=stage(g, loaded, text, our_latent(g)))
    g.dump("plain", latent=stage(g, checkpoint(g, models), text, our_latent(g)))
    result = server.run(g.prompt)
    # The host multiplies int8 weights with activations that it rounds to int8 as well.
    assert distance(result, "ours", "exact") < (1e-2 if kind == "int8" else 1e-3)
    assert distance(result, "exact", "plain") > 1e-3


def distance(result: Result, ours: str, exact: str) -> float:
    left, right = (result.tensors(name)["latent/video"] for name in (ours, exact))
    return float((left - right).norm() / right.norm())


def test_a_lora_matches_quantised_layers_and_acts_on_them(server: Server, models: TinyModels, folder: Path):
    g = Graph()
    text = prompt(g, text_encoder(g, models))
    loaded = g.add("LTX2AVLoadCheckpoint", ckpt_name="nvfp4.safetensors")
    changed = g.add("LTX2AVLoadLora", model=loaded, lora=models.lora, strength=1.0)
    g.dump("without", latent=stage(g, loaded, text, our_latent(g)))
    g.dump("with", latent=stage(g, changed, text, our_latent(g)))
    result = server.run(g.prompt)
    assert "16 of 16 layers at strength 1" in report(result)
    assert distance(result, "with", "without") > 1e-3


def report(result: Result) -> str:
    (text,) = (o["text"][0] for o in result.outputs.values() if "text" in o)
    return text


def test_the_streams_of_a_lora_have_strengths_of_their_own(server: Server, models: TinyModels):
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    for name, strength, audio in (
        ("none", 0.0, "0"),
        ("sound", 0.0, "1"),
        ("both", 1.0, ""),
        ("all", 1.0, "1"),
    ):
        model = g.add(
            "LTX2AVLoadLora", model=loaded, lora=models.lora, strength=strength, audio_strength=audio
        )
        g.dump(name, latent=stage(g, model, text, our_latent(g)))
    result = server.run(g.prompt)
    texts = [o["text"][0] for o in result.outputs.values() if "text" in o]
    assert any("at strength 0, audio 1" in told for told in texts)
    assert_equal(result, "both", "all")
    none, sound, both = (result.tensors(name)["latent/audio"] for name in ("none", "sound", "both"))
    assert (none - sound).abs().max() > 1e-4 and (sound - both).abs().max() > 1e-4


def test_text_encoders_in_one_file_give_the_conditioning_of_the_folder(
    server: Server, models: TinyModels, folder: Path
):
    g = Graph()
    for name, file in (
        ("folder", models.text_encoder),
        ("file", "gemma.safetensors"),
        ("fp8", "gemma_fp8.safetensors"),
    ):
        clip = g.add("LTX2AVLoadTextEncoder", text_encoder=file, ckpt_name="text_encoders/parts.safetensors")
        g.dump(name, conditioning=g.add("LTX2AVPrompt", clip=clip, positive="a", negative="b", fps=FPS))
    result = server.run(g.prompt)
    assert_equal(result, "file", "folder")
    exact, stored = (result.tensors(name)["cond"] for name in ("folder", "fp8"))
    assert 0 < (exact - stored).norm() / exact.norm() < 0.3


def options(server: Server, node: str, name: str) -> list[str]:
    inputs = server.get(f"/object_info/{node}")[node]["input"]
    entry = {**inputs["required"], **inputs.get("optional", {})}[name]
    return entry[1]["options"] if entry[0] == "COMBO" else entry[0]


def test_lists_hold_what_can_be_loaded_and_nothing_else(server: Server, models: TinyModels, folder: Path):
    listed = options(server, "LTX2AVLoadCheckpoint", "ckpt_name")
    assert {*models.checkpoints.values(), "diffusion_models/only.safetensors", "diffusers/pieces"} <= {
        *listed
    }
    assert not {*models.broken.values()} & {*listed}
    assert options(server, "LTX2AVLoadCheckpoint", "video_vae")[:3] == [
        "in ckpt_name",
        "none",
        "video.safetensors",
    ]
    assert "audio.safetensors" in options(server, "LTX2AVLoadAll", "audio_vae")
    assert options(server, "LTX2AVLoadAll", "text_parts") == ["in ckpt_name", "parts.safetensors"]
    encoders = {models.text_encoder, "gemma.safetensors", "gemma_fp8.safetensors"}
    assert {*options(server, "LTX2AVLoadTextEncoder", "text_encoder")} == encoders
    assert models.foreign_lora not in options(server, "LTX2AVLoadLora", "lora")
    assert options(server, "LTX2AVLoadUpscaler", "upscaler") == [models.upsampler]
    every = options(server, "LTX2AVInspect", "file")
    assert {f"checkpoints/{name}" for name in models.broken.values()} <= {*every}


def test_a_list_notices_a_file_that_changed(server: Server, models: TinyModels, folder: Path):
    path = folder / "latent_upscale_models" / "late.safetensors"
    path.write_bytes(b"not yet")
    assert "late.safetensors" not in options(server, "LTX2AVLoadUpscaler", "upscaler")
    path.write_bytes((folder / "latent_upscale_models" / models.upsampler).read_bytes())
    assert "late.safetensors" in options(server, "LTX2AVLoadUpscaler", "upscaler")
    path.unlink()


@pytest.mark.parametrize(
    ("node", "changes", "words"),
    [
        (
            "LTX2AVLoadAll",
            {"ckpt_name": "upscaler.safetensors"},
            "it holds latent upsampler.*Choose .*safetensors",
        ),
        ("LTX2AVLoadAll", {"ckpt_name": "gone.safetensors"}, "is not in models/checkpoints or models/diff"),
        (
            "LTX2AVLoadAll",
            {"text_encoder": "t5.safetensors"},
            "cannot serve as a text encoder.*gemma_3_12B_it",
        ),
        ("LTX2AVLoadAll", {"video_vae": "audio.safetensors"}, "has no video encoder.*LTX2_video_vae_bf16"),
        ("LTX2AVLoadAll", {"ckpt_name": "incomplete.safetensors"}, "1 missing: proj_out.weight"),
        ("LTX2AVLoadLora", {"lora": "foreign.safetensors"}, "none of its layers has a name of LTX-2"),
        ("LTX2AVLoadUpscaler", {"upscaler": "no"}, "into models/latent_upscale_models"),
    ],
)
def test_a_wrong_name_is_answered_with_what_it_is_and_what_to_choose(
    server: Server, models: TinyModels, folder: Path, node: str, changes: dict[str, str], words: str
):
    g = Graph()
    if node == "LTX2AVLoadLora":
        loaded = g.add(node, model=checkpoint(g, models), strength=1.0, **changes)
    else:
        loaded = everything(g, models, **changes) if node == "LTX2AVLoadAll" else g.add(node, **changes)
    if node == "LTX2AVLoadUpscaler":
        all_ = everything(g, models)
        loaded = g.add("LTX2AVLatentUpscale", latent=our_latent(g), upscale_model=loaded, video_vae=all_[2])
        g.dump("x", latent=loaded)
    else:
        g.add("LTX2ProbeModel", model=loaded)
    with pytest.raises(GraphError, match=words):
        server.run(g.prompt)


def test_a_graph_saved_before_the_new_widgets_still_runs(server: Server, models: TinyModels):
    g = Graph()
    loaded = g.add("LTX2AVLoadLora", model=checkpoint(g, models), lora=models.lora, strength=1.0)
    g.dump("x", latent=stage(g, loaded, prompt(g, text_encoder(g, models)), our_latent(g)))
    assert "16 of 16 layers at strength 1" in report(server.run(g.prompt))


def test_a_number_that_is_none_is_refused(server: Server, models: TinyModels):
    g = Graph()
    values = {"lora": models.lora, "strength": 1.0, "audio_strength": "loud"}
    g.add("LTX2ProbeModel", model=g.add("LTX2AVLoadLora", model=checkpoint(g, models), **values))
    with pytest.raises(GraphError, match="audio_strength='loud' must be a number from -10 to 10"):
        server.run(g.prompt)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("checkpoints/ltx2-tiny-2.3.safetensors", ["LTX-2.3", "single file", "vocoder"]),
        ("checkpoints/nvfp4.safetensors", ["quantised layers: 8 nvfp4"]),
        ("checkpoints/truncated.safetensors", ["cannot be loaded", "truncated"]),
        ("diffusers/pieces", ["split files", "LTX-2.3"]),
        ("loras/ic.safetensors", ["16 layers of rank 4: video 8, audio 8", "1/2 of the size"]),
        ("text_encoders/gemma.safetensors", ["text encoder in one file", "tokenizer_json"]),
    ],
)
def test_inspect_says_what_a_file_is(server: Server, models: TinyModels, folder: Path, file: str, words):
    g = Graph()
    g.add("LTX2AVInspect", file=file)
    told = report(server.run(g.prompt))
    assert all(word in told for word in words), told
