"""GGUF files in the lists of the loaders: as the decoded weights, with LoRAs on top."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gguf_files import write_encoder, write_gguf
from host_graph import Graph, Link
from host_server import Json, Result, Server
from node_graphs import distance, our_latent, prompt, stage, text_encoder
from safetensors.torch import save_file
from tiny_models import TinyModels

from ltx2_core.loading import open_checkpoint
from ltx2_core.loading.detect import Component
from ltx2_core.storage.quantized import QuantizedLinear
from ltx2_core.storage.reading import read_tensors

PARTS = {"video_vae": "none", "audio_vae": "none"}


@pytest.fixture(scope="module")
def files(models: TinyModels, folder: Path) -> Iterator[tuple[str, str]]:
    """Names of a transformer in Q8_0, and of a safetensors file with the weights that it decodes to."""
    checkpoint = open_checkpoint(folder / "checkpoints" / models.checkpoints["2.3"])
    stored = read_tensors(checkpoint.infos(Component.TRANSFORMER))
    unet = folder / "diffusion_models"
    unet.mkdir(exist_ok=True)
    path = write_gguf(unet / "tiny-Q8_0.gguf", stored)
    network = open_checkpoint(path).load(Component.TRANSFORMER, dtype=torch.float32)
    decoded = {
        f"{name}.weight": layer.decoded()
        for name, layer in network.named_modules()
        if isinstance(layer, QuantizedLinear)
    }
    assert decoded
    plain = read_tensors(open_checkpoint(path).infos(Component.TRANSFORMER))
    whole = {n: t.float() for n, t in {**plain, **decoded}.items()}
    named = {f"model.diffusion_model.{name}": tensor.contiguous() for name, tensor in whole.items()}
    save_file(named, unet / "decoded.safetensors")
    yield "diffusion_models/tiny-Q8_0.gguf", "diffusion_models/decoded.safetensors"
    # Tests of the lists, which follow, name all files.
    for name in ("tiny-Q8_0.gguf", "decoded.safetensors"):
        (unet / name).unlink()


def load(g: Graph, file: str, network: str) -> Link:
    parts = {**PARTS, "text_parts": "parts.safetensors"}
    return g.add("LTX2AVLoadCheckpoint", ckpt_name=file, network=network, **parts)


@pytest.mark.parametrize("network", ["LTX-2", "ComfyUI"])
@pytest.mark.parametrize("lora", [False, True], ids=["plain", "with a LoRA"])
@pytest.mark.parametrize("partly", [False, True], ids=["loaded", "loaded in part"])
def test_a_transformer_gives_what_its_decoded_weights_do(
    server: Server, models: TinyModels, files: tuple[str, str], network: str, lora: bool, partly: bool
) -> None:
    g = Graph()
    text = prompt(g, text_encoder(g, models))
    for name, file in zip(("ours", "expected"), files, strict=True):
        loaded = load(g, file, network)
        if lora:
            loaded = g.add("LTX2AVLoadLora", model=loaded, lora=models.lora, strength=1.0)
        if partly and name == "ours":
            loaded = g.add("LTX2ProbePartialLoad", model=loaded)
        g.dump(name, latent=stage(g, loaded, text, our_latent(g)))
    assert distance(server.run(g.prompt), "ours", "expected") < 1e-5


def test_a_lora_of_a_hook_acts_as_on_the_decoded_weights(
    server: Server, models: TinyModels, files: tuple[str, str]
) -> None:
    g = Graph()
    text = prompt(g, text_encoder(g, models))
    hooks = g.add("CreateHookLora", lora_name=models.lora, strength_model=0.8, strength_clip=0.0)
    shared = {"hooks": hooks, "strength": 1.0, "set_cond_area": "default"}
    hooked = g.add("ConditioningSetProperties", cond_NEW=text[0], **shared)
    for name, file, said in (("ours", 0, hooked), ("expected", 1, hooked), ("bare", 0, text[0])):
        model = load(g, files[file], "LTX-2")
        g.dump(name, latent=stage(g, model, text, our_latent(g), positive=said))
    result = server.run(g.prompt)
    assert distance(result, "ours", "expected") < 1e-5
    assert distance(result, "bare", "expected") > 1e-3


@pytest.mark.parametrize("network", ["LTX-2", "ComfyUI"])
def test_the_host_counts_the_blocks_and_not_the_decoded_weights(
    server: Server, models: TinyModels, files: tuple[str, str], network: str
) -> None:
    def size(file: str, *, lora: bool = False) -> Json:
        g = Graph()
        loaded = load(g, file, network)
        if lora:
            loaded = g.add("LTX2AVLoadLora", model=loaded, lora=models.lora, strength=1.0)
        g.add("LTX2ProbeSize", model=loaded)
        return server.run(g.prompt).report()

    blocks, decoded = map(size, files)
    # Q8_0 has 34 bytes for 32 values, of which float32 takes 128.
    assert blocks["blocks"] > 0
    assert decoded["model"] - blocks["model"] == blocks["blocks"] * 128 // 34 - blocks["blocks"]
    assert blocks["loaded"] == blocks["model"]
    assert blocks["decoding"] > decoded["decoding"], "a layer is decoded at a time"
    assert size(files[0], lora=True) == blocks, "LoRAs decode nothing for good"


def test_a_lora_of_a_graph_is_gone_from_the_next_one(
    server: Server, models: TinyModels, files: tuple[str, str]
) -> None:
    def run(lora: bool) -> Result:
        g = Graph()
        loaded = load(g, files[0], "LTX-2")
        if lora:
            loaded = g.add("LTX2AVLoadLora", model=loaded, lora=models.lora, strength=1.0)
        g.dump("ours", latent=stage(g, loaded, prompt(g, text_encoder(g, models)), our_latent(g)))
        return server.run(g.prompt)

    first, changed, again = (run(lora).tensors("ours") for lora in (False, True, False))
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert not all(torch.equal(changed[name], value) for name, value in first.items())


def test_gemma_encodes_as_its_folder_does(server: Server, models: TinyModels, base_dir: Path) -> None:
    encoders = base_dir / "models" / "text_encoders"
    source = encoders / Path(models.text_encoder).parent
    written = write_encoder(source, encoders / "gemma.gguf", blocks=False)
    g = Graph()
    for name, file in (("ours", "gemma.gguf"), ("expected", models.text_encoder)):
        clip = g.add("LTX2AVLoadTextEncoder", text_encoder=file, ckpt_name=models.checkpoints["2.3"])
        loaded = g.add("LTX2AVLoadCheckpoint", ckpt_name=models.checkpoints["2.3"])
        g.dump(name, latent=stage(g, loaded, prompt(g, clip), our_latent(g)))
    try:
        assert distance(server.run(g.prompt), "ours", "expected") < 1e-4
    finally:
        written.unlink()
