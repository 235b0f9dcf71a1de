"""A run within a budget gives the clip of a run without one, and one that cannot fit says so first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.loading import Checkpoint, Component
from ltx2_core.memory import BlockStreaming
from ltx2_core.run.request import Request, plan_stages
from ltx2_core.storage.header import read_header
from ltx2_core.storage.quantized import loaded_bytes
from ltx2_core.text import folder as folder_module

BLOCKS = 32
REQUEST = Request(prompt="a ball", width=64, height=64, num_frames=9, fps=8.0, steps=2, seed=4)


def pipeline(files, **options):
    return LTX2Pipeline(
        files.checkpoint, text_encoder=files.text_encoder, upscaler=files.upsampler, device="cpu", **options
    )


@pytest.fixture(scope="module")
def resident(deep):
    made = pipeline(deep)("a ball", **_options())
    return made.latents, made.array()


def _options():
    names = ("width", "height", "num_frames", "fps", "steps", "seed")
    return {name: getattr(REQUEST, name) for name in names}


def _tight(files):
    """A budget that holds the decoder and the connectors, and not all blocks."""
    whole = pipeline(files)
    plan, least = (whole.plan(plan_stages(REQUEST, whole.numerics), budget) for budget in (10**12, 1))
    others = max(stage.total for stage in least.stages if not stage.stage.startswith("stage"))
    sampling = max(stage.total for stage in plan.stages if stage.stage.startswith("stage"))
    assert sampling > 1.3 * others
    return int(1.2 * others / 0.94)


@pytest.mark.parametrize("keep_loaded", [False, True])
def test_a_small_budget_gives_the_same_bits(deep, resident, monkeypatch, keep_loaded):
    budget, used = _tight(deep), []
    start = BlockStreaming.__init__

    def watched(self, transformer, device, **options):
        used.append(options["resident"])
        start(self, transformer, device, **options)

    monkeypatch.setattr(BlockStreaming, "__init__", watched)
    small = pipeline(deep, max_memory=budget, keep_loaded=keep_loaded)
    plan = small.plan(plan_stages(REQUEST, small.numerics), budget)
    assert plan.fits
    assert 0 < plan.resident_blocks < BLOCKS
    for _ in range(1 + keep_loaded):
        made = small("a ball", **_options())
        assert torch.equal(made.latents.video, resident[0].video)
        assert torch.equal(made.latents.audio, resident[0].audio)
        assert (made.array() == resident[1]).all()
    assert used == [plan.resident_blocks] * (1 + keep_loaded)


def test_a_text_encoder_that_does_not_fit_computes_on_the_cpu(deep):
    whole = pipeline(deep)
    connectors = whole.networks.component_bytes(Component.TEXT_CONNECTORS)
    encoder = whole.networks.text_bytes() - connectors
    plan = whole.networks.plan([plan_stages(REQUEST, whole.numerics)[0].clip], budget=encoder)
    assert (plan.stages[0].weights, plan.stages[0].host) == (connectors, encoder)
    assert any("system memory" in line for line in plan.lines())


def test_another_plan_counts_no_tensor_of_a_checkpoint_again(deep, monkeypatch):
    networks, counted = pipeline(deep).networks, []
    infos = Checkpoint.infos
    monkeypatch.setattr(Checkpoint, "infos", lambda *of: counted.append(of) or infos(*of))
    first = networks.plan([plan_stages(REQUEST)[0].clip], budget=2**34)
    assert counted
    counted.clear()
    assert networks.plan([plan_stages(REQUEST)[0].clip], budget=2**34) == first
    assert not counted
    assert networks.component_bytes(Component.VIDEO_DECODER, dtype=torch.bfloat16) * 2 == (
        networks.component_bytes(Component.VIDEO_DECODER)
    )


def test_a_text_encoder_is_read_again_only_after_a_change(deep, tmp_path, monkeypatch):
    folder = tmp_path / "gemma"
    shutil.copytree(deep.text_encoder, folder)
    networks = LTX2Pipeline(deep.checkpoint, text_encoder=folder, device="cpu").networks
    networks.check_text_encoder()
    found = networks.text_encoder_bytes()
    read: list[Path] = []
    monkeypatch.setattr(folder_module, "read_header", lambda path: read.append(path) or read_header(path))
    networks.check_text_encoder()
    assert networks.text_encoder_bytes() == found
    assert networks.text_size() is not None
    assert read == []
    (weights,) = folder.rglob("*.safetensors")
    weights.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="not a safetensors file"):
        networks.check_text_encoder()
    weights.unlink()
    with pytest.raises(ValueError, match="no Gemma weights"):
        networks.text_encoder_bytes()
    shutil.copy(next(Path(deep.text_encoder).rglob("*.safetensors")), weights)
    networks.check_text_encoder()
    assert networks.text_encoder_bytes() == found
    assert read


def test_blocks_and_the_rest_make_the_whole_transformer(deep):
    networks = pipeline(deep).networks
    file = networks.file(Component.TRANSFORMER)
    whole = networks.component_bytes(Component.TRANSFORMER)
    assert whole == loaded_bytes(file.infos(Component.TRANSFORMER).values(), torch.float32)
    blocks = networks.component_bytes(Component.TRANSFORMER, within="transformer_blocks.")
    assert blocks % BLOCKS == 0
    assert 0.8 * whole < blocks < whole


def test_a_run_that_cannot_fit_is_refused_before_anything_is_computed(deep):
    heard = []
    with pytest.raises(ValueError, match=r"does not fit: .* make a smaller clip, or allow at least"):
        pipeline(deep, max_memory=1_000_000)(REQUEST, on_step=heard.append)
    assert not heard
    with pytest.raises(ValueError, match="at least 1 byte; got 0"):
        pipeline(deep, max_memory=0)
