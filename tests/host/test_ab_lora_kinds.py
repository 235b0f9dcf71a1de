"""LoRA, DoRA, LoKr and LoHa merge to ComfyUI's weights, and the node gives the clip of its loader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from host_graph import Graph
from host_server import Server
from node_graphs import assert_equal, checkpoint, distance, our_latent, prompt, stage, text_encoder
from safetensors.torch import load_file, save_file
from tiny_models import TinyModels
from torch import Tensor

from ltx2_core.loading import Component, open_checkpoint, open_lora

MODULES = ("transformer_blocks.0.attn1.to_q", "transformer_blocks.1.audio_attn1.to_k")

THEIRS = """
import sys
_, host, weights, lora, target, strength = sys.argv
sys.path.insert(0, host)
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import comfy.lora
import torch
from safetensors.torch import load_file, save_file
# The host's LoKr with Tucker's core passes a strided tensor to kron, which raises, and is then left out.
kron = torch.kron
torch.kron = lambda a, b: kron(a.contiguous(), b.contiguous())
original = load_file(weights)
names = {name.removesuffix(".weight"): name for name in original}
patches = comfy.lora.load_lora(load_file(lora), names)
assert patches.keys() == original.keys(), patches.keys()
for name, weight in original.items():
    change = (float(strength), patches[name], 1.0, None, None)
    original[name] = comfy.lora.calculate_weight([change], weight.float(), name).contiguous()
save_file(original, target)
"""


def tensors_of(kind: str, rows: int, columns: int) -> dict[str, Tensor]:
    """Small tensors of one kind that fit a weight (rows, columns)."""
    generator = torch.Generator().manual_seed(rows + columns)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / 4

    form, _, magnitude = kind.partition(" + ")
    half = rows // 4, columns // 2
    made = {
        "lora": {"lora_A.weight": randn(3, columns), "lora_B.weight": randn(rows, 3)},
        "lokr": {"lokr_w1": randn(4, 2), "lokr_w2": randn(*half)},
        "lokr halves": {
            "lokr_w1_a": randn(4, 1),
            "lokr_w1_b": randn(1, 2),
            "lokr_w2_a": randn(half[0], 5),
            "lokr_w2_b": randn(5, half[1]),
        },
        "lokr tucker": {
            "lokr_w1": randn(4, 2),
            "lokr_t2": randn(5, 6, 1, 1),
            "lokr_w2_a": randn(5, half[0]),
            "lokr_w2_b": randn(6, half[1]),
        },
        "loha": {
            "hada_w1_a": randn(rows, 3),
            "hada_w1_b": randn(3, columns),
            "hada_w2_a": randn(rows, 3),
            "hada_w2_b": randn(3, columns),
        },
        "loha tucker": {
            "hada_t1": randn(2, 3, 1, 1),
            "hada_w1_a": randn(2, rows),
            "hada_w1_b": randn(3, columns),
            "hada_t2": randn(2, 3, 1, 1),
            "hada_w2_a": randn(2, rows),
            "hada_w2_b": randn(3, columns),
        },
    }[form]
    scale = {"rows": randn(rows, 1).abs() + 1, "columns": randn(1, columns).abs() + 1}.get(magnitude)
    return {**made, "alpha": torch.tensor(2.0), **({} if scale is None else {"dora_scale": scale})}


FORMS = ("lora", "lokr", "lokr halves", "lokr tucker", "loha", "loha tucker")
KINDS = [f"{form}{scale}" for form in FORMS for scale in ("", " + rows", " + columns")]


def write_lora(kind: str, models: TinyModels, base_dir: Path) -> Path:
    """A file of one kind for a video and an audio layer, among the host's LoRAs."""
    folder = base_dir / "models"
    shapes = open_checkpoint(folder / "checkpoints" / models.checkpoints["2.3"]).shapes(Component.TRANSFORMER)
    tensors = {
        f"diffusion_model.{module}.{name}": tensor.contiguous()
        for module in MODULES
        for name, tensor in tensors_of(kind, *shapes[f"{module}.weight"]).items()
    }
    path = folder / "loras" / f"{kind}.safetensors"
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_weights_are_the_hosts(
    kind: str, strength: float, models: TinyModels, base_dir: Path, comfy_dir: Path, tmp_path: Path
):
    lora = open_lora(write_lora(kind, models, base_dir), strength)
    file = open_checkpoint(base_dir / "models" / "checkpoints" / models.checkpoints["2.3"])
    plain = file.load(Component.TRANSFORMER, dtype=torch.float32).state_dict()
    ours = file.load(Component.TRANSFORMER, dtype=torch.float32, loras=[lora]).state_dict()
    names = [f"{module}.weight" for module in MODULES]
    save_file({f"diffusion_model.{n}": plain[n].contiguous() for n in names}, tmp_path / "weights")
    script = [sys.executable, "-c", THEIRS, comfy_dir, tmp_path / "weights", lora.path, tmp_path / "theirs"]
    subprocess.run([*map(str, script), str(strength)], check=True, cwd=comfy_dir)
    theirs = load_file(tmp_path / "theirs")
    for name in names:
        torch.testing.assert_close(ours[name], theirs[f"diffusion_model.{name}"], rtol=1e-5, atol=1e-6)
        assert not torch.equal(ours[name], plain[name])


def test_the_node_gives_what_the_hosts_loader_gives(server: Server, models: TinyModels, base_dir: Path):
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    g.dump("plain", latent=stage(g, loaded, text, our_latent(g)))
    for number, kind in enumerate(KINDS):
        name = write_lora(kind, models, base_dir).name
        ours = g.add("LTX2AVLoadLora", model=loaded, lora=name, strength=0.7)
        core = g.add("LoraLoaderModelOnly", model=loaded, lora_name=name, strength_model=0.7)
        for whose, model in (("ours", ours), ("core", core)):
            g.dump(f"{whose} {number}", latent=stage(g, model, text, our_latent(g)))
    result = server.run(g.prompt)
    for number in range(len(KINDS)):
        # The host's own loader leaves a LoKr with Tucker's core out.
        if "lokr tucker" not in KINDS[number]:
            assert_equal(result, f"ours {number}", f"core {number}")
        assert distance(result, f"ours {number}", "plain") > 1e-5
