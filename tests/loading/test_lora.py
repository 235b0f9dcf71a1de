"""LoRA: merged exactly, reported completely, refused when it fits nowhere."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx2_core.loading import Component, open_checkpoint, open_lora
from ltx2_core.loading.lora import apply_loras

Q0 = "transformer_blocks.0.attn1.to_q"


@pytest.fixture
def write(tmp_path):
    def write(tensors, metadata=None, name="lora.safetensors"):
        path = tmp_path / name
        save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata=metadata)
        return path

    return write


def pair(
    module, out=64, inner=64, rank=4, prefix="diffusion_model.", ends=(".lora_A.weight", ".lora_B.weight")
):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(rank, inner, generator=generator), torch.randn(out, rank, generator=generator)
    return {prefix + module + ends[0]: a, prefix + module + ends[1]: b}


def test_the_weights_are_w_plus_strength_times_b_a_rounded_once(tiny23):
    checkpoint = open_checkpoint(tiny23.checkpoint)
    plain = checkpoint.load(Component.TRANSFORMER).state_dict()
    merged = checkpoint.load(Component.TRANSFORMER, loras=[open_lora(tiny23.lora, -0.7)]).state_dict()
    lora = load_file(tiny23.lora)
    changed = {name for name in plain if not torch.equal(plain[name], merged[name])}
    modules = {n.removeprefix("diffusion_model.").split(".lora_")[0] for n in lora}
    assert changed == {f"{module}.weight" for module in modules} and len(changed) == 16
    for module in modules:
        a, b = (lora[f"diffusion_model.{module}.lora_{half}.weight"].float() for half in "AB")
        expected = (plain[f"{module}.weight"].float() - 0.7 * (b @ a)).bfloat16()
        torch.testing.assert_close(merged[f"{module}.weight"], expected, rtol=1e-2, atol=1e-6)


def test_two_loras_add_up_and_opposite_ones_cancel(tiny20):
    checkpoint = open_checkpoint(tiny20.checkpoint)
    plain = checkpoint.load(Component.TRANSFORMER).state_dict()
    loras = [open_lora(tiny20.lora, 0.5), open_lora(tiny20.lora, -0.5)]
    for name, tensor in checkpoint.load(Component.TRANSFORMER, loras=loras).state_dict().items():
        torch.testing.assert_close(tensor, plain[name], rtol=0, atol=1e-6)


def test_only_changed_layers_become_private(tiny23):
    with safe_open(tiny23.checkpoint, "pt") as file:
        prefix = "model.diffusion_model."
        state = {n[len(prefix) :]: file.get_tensor(n) for n in file.keys() if n.startswith(prefix)}  # noqa: SIM118
    result, (report,) = apply_loras(state, [open_lora(tiny23.lora)], Component.TRANSFORMER)
    kept = {name for name in state if result[name] is state[name]}
    assert state.keys() - kept == {f"{module}.weight" for module in report.matched}


def test_strength_zero_changes_nothing(tiny23):
    checkpoint = open_checkpoint(tiny23.checkpoint)
    plain = checkpoint.load(Component.TRANSFORMER).state_dict()
    for name, tensor in (
        checkpoint.load(Component.TRANSFORMER, loras=[open_lora(tiny23.lora, 0)]).state_dict().items()
    ):
        assert torch.equal(tensor, plain[name])


@pytest.mark.parametrize(
    "prefix", ["", "diffusion_model.", "transformer.", "base_model.model.", "model.diffusion_model."]
)
@pytest.mark.parametrize(
    "ends",
    [
        (".lora_A.weight", ".lora_B.weight"),
        (".lora_down.weight", ".lora_up.weight"),
        (".lora_A.default.weight", ".lora_B.default.weight"),
    ],
)
def test_simple_dialects_mean_the_same(prefix, ends, tiny20, write):
    checkpoint = open_checkpoint(tiny20.checkpoint)
    official = checkpoint.load(Component.TRANSFORMER, loras=[open_lora(write(pair(Q0)))])
    other = checkpoint.load(
        Component.TRANSFORMER,
        loras=[open_lora(write(pair(Q0, prefix=prefix, ends=ends), name="b.safetensors"))],
    )
    name = f"{Q0}.weight"
    assert torch.equal(official.state_dict()[name], other.state_dict()[name])


def test_an_alpha_scales_by_alpha_over_rank(tiny20, write):
    checkpoint = open_checkpoint(tiny20.checkpoint)
    tensors = pair(Q0)
    half = write({**tensors, f"diffusion_model.{Q0}.alpha": torch.tensor(2.0)})
    plain = write(tensors, name="plain.safetensors")
    states = [
        checkpoint.load(Component.TRANSFORMER, loras=[lora]).state_dict()[f"{Q0}.weight"]
        for lora in (open_lora(half, 1.0), open_lora(plain, 0.5))
    ]
    torch.testing.assert_close(*states)


def test_connector_layers_reach_the_connectors_only(tiny20, write):
    module = "video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q"
    checkpoint = open_checkpoint(tiny20.checkpoint)
    lora = open_lora(write({**pair(module), **pair(Q0)}))
    for component, own in ((Component.TEXT_CONNECTORS, module), (Component.TRANSFORMER, Q0)):
        report = checkpoint.lora_report(component, lora)
        assert report.matched == (own,) and len(report.elsewhere) == 1 and not report.unmatched
    plain, merged = (checkpoint.load(Component.TEXT_CONNECTORS, loras=loras) for loras in ((), [lora]))
    name = f"{module}.weight"
    assert not torch.equal(plain.state_dict()[name], merged.state_dict()[name])


def test_the_report_names_what_did_not_fit_and_the_rest_is_merged(tiny20, write, caplog):
    checkpoint = open_checkpoint(tiny20.checkpoint)
    lora = open_lora(
        write(
            {
                **pair(Q0),
                **pair("transformer_blocks.9.attn1.to_q"),
                **pair("transformer_blocks.1.attn1.to_q", out=96),
            }
        ),
        0.8,
    )
    report = checkpoint.lora_report(Component.TRANSFORMER, lora)
    assert report.matched == (Q0,)
    assert report.unmatched == ("transformer_blocks.9.attn1.to_q",)
    assert report.shape_mismatched == ("transformer_blocks.1.attn1.to_q (LoRA (96, 64), model (64, 64))",)
    assert str(report) == (
        "lora.safetensors: 1 layers of the transformer, strength 0.8; "
        "1 not in this model: transformer_blocks.9.attn1.to_q; "
        "1 of another shape: transformer_blocks.1.attn1.to_q (LoRA (96, 64), model (64, 64))"
    )
    with caplog.at_level(logging.WARNING):
        checkpoint.load(Component.TRANSFORMER, loras=[lora])
    assert str(report) in caplog.text


def test_a_lora_that_fits_nowhere_is_an_error(tiny20, write):
    checkpoint = open_checkpoint(tiny20.checkpoint)
    for tensors, what in (
        (pair(Q0, out=4096, inner=4096), r"LoRA \(4096, 4096\), model \(64, 64\)"),
        (pair("double_blocks.0.img_attn"), "not in this model: double_blocks.0.img_attn"),
    ):
        with pytest.raises(ValueError, match=rf"0 layers.*{what}.*made for another model"):
            checkpoint.load(Component.TRANSFORMER, loras=[open_lora(write(tensors))])


def test_files_that_are_no_plain_lora_are_refused(tiny20, write):
    with pytest.raises(ValueError, match="is not a LoRA"):
        open_lora(tiny20.upsampler)
    with pytest.raises(ValueError, match="one half of the pair is missing for transformer_blocks"):
        open_lora(write({f"diffusion_model.{Q0}.lora_A.weight": torch.zeros(4, 64)}))
    with pytest.raises(ValueError, match=r"unsupported LoRA kind: .*dora_scale"):
        open_lora(write({**pair(Q0), f"diffusion_model.{Q0}.dora_scale": torch.zeros(64)}))
    with pytest.raises(ValueError, match="finite"):
        open_lora(tiny20.lora, float("nan"))


def test_reference_factors_come_from_the_metadata(write):
    lora = open_lora(write(pair(Q0), {"reference_downscale_factor": "2"}))
    assert (lora.reference_downscale_factor, lora.reference_temporal_scale_factor) == (2, 1)
    assert open_lora(write(pair(Q0))).reference_downscale_factor == 1
    with pytest.raises(ValueError, match="reference_downscale_factor must be a whole number"):
        _ = open_lora(write(pair(Q0), {"reference_downscale_factor": "0.5"})).reference_downscale_factor


def test_a_lora_file_is_recognised_as_one(tiny20):
    assert open_checkpoint(tiny20.lora).components == {Component.LORA}
