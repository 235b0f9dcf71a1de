"""LoRA: merged exactly, reported completely, refused if no layer fits."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import load_file

from ltx2_core.loading import Component, open_checkpoint, open_lora

Q0 = "transformer_blocks.0.attn1.to_q"


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
    assert changed == {f"{module}.weight" for module in modules}
    assert len(changed) == 16
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


def test_strength_zero_changes_nothing(tiny23):
    checkpoint = open_checkpoint(tiny23.checkpoint)
    plain = checkpoint.load(Component.TRANSFORMER).state_dict()
    for name, tensor in (
        checkpoint.load(Component.TRANSFORMER, loras=[open_lora(tiny23.lora, 0)]).state_dict().items()
    ):
        assert torch.equal(tensor, plain[name])


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
        assert report.matched == (own,)
        assert len(report.elsewhere) == 1
        assert not report.unmatched
    plain, merged = (checkpoint.load(Component.TEXT_CONNECTORS, loras=loras) for loras in ((), [lora]))
    name = f"{module}.weight"
    assert not torch.equal(plain.state_dict()[name], merged.state_dict()[name])


def test_the_report_counts_by_stream_and_names_what_did_not_fit(tiny20, write, caplog):
    checkpoint = open_checkpoint(tiny20.checkpoint)
    lora = open_lora(
        write(
            {
                **pair(Q0),
                **pair("transformer_blocks.9.audio_attn1.to_q"),
                **pair("transformer_blocks.1.audio_to_video_attn.to_q", out=96),
                **pair("lora_te_model_layers_0_mlp_up_proj", prefix=""),
            }
        ),
        0.8,
        audio_strength=0.5,
    )
    report = checkpoint.lora_report(Component.TRANSFORMER, lora)
    assert report.matched == (Q0,)
    assert report.unmatched == ("transformer_blocks.9.audio_attn1.to_q",)
    (mismatch,) = report.shape_mismatched
    assert mismatch.startswith("transformer_blocks.1.audio_to_video_attn.to_q (LoRA (96, 64), model (")
    text = str(report)
    for line in (
        "lora.safetensors: 1 of 3 layers at strength 0.8, audio 0.5",
        "video: 1 matched",
        "audio: 1 not in this model",
        "cross: 1 of another shape",
        "not in this model: transformer_blocks.9.audio_attn1.to_q",
        "for other components (text encoder): 1",
    ):
        assert line in text
    with caplog.at_level(logging.WARNING):
        checkpoint.load(Component.TRANSFORMER, loras=[lora])
    assert text in caplog.text


def test_a_lora_that_fits_nowhere_is_an_error(tiny20, write):
    checkpoint = open_checkpoint(tiny20.checkpoint)
    for tensors, what in (
        (pair(Q0, out=4096, inner=4096), r"LoRA \(4096, 4096\), model \(64, 64\)"),
        (pair("double_blocks.0.img_attn"), "not in this model: double_blocks.0.img_attn"),
    ):
        with pytest.raises(ValueError, match=rf"(?s): 0 of 1 layers.*{what}.*made for another model"):
            checkpoint.load(Component.TRANSFORMER, loras=[open_lora(write(tensors))])


@pytest.mark.parametrize(
    ("base", "model", "tensors"),
    [
        ("2.0", "2.3", pair("caption_projection.linear_1")),
        ("2.0", "2.3", pair("adaln_single.linear", out=6 * 64)),
        ("2.3 or 2.5", "2.0", pair("transformer_blocks.0.attn1.to_gate_logits", out=2)),
        ("2.3 or 2.5", "2.0", pair("adaln_single.linear", out=9 * 64)),
        ("2.3 or 2.5", "2.0", pair("lora_unet_transformer_blocks_0_attn1_to_gate_logits", out=2, prefix="")),
    ],
)
def test_a_lora_of_another_generation_says_so(base, model, tensors, tiny20, tiny23, write):
    checkpoint = open_checkpoint((tiny20 if model == "2.0" else tiny23).checkpoint)
    report = checkpoint.lora_report(Component.TRANSFORMER, open_lora(write({**pair(Q0), **tensors})))
    assert report.matched == (Q0,)
    assert report.wrong_generation
    assert f"WRONG GENERATION: made for LTX-{base} (" in str(report)
    assert f"this model is LTX-{model}" in str(report)


def test_the_generation_comes_from_metadata_if_layers_do_not_determine_it(tiny20, tiny23, write):
    plain = open_lora(write(pair(Q0)))
    stated = open_lora(write(pair(Q0), {"model_version": "2.3.0"}, name="stated.safetensors"))
    for files, wrong in ((tiny20, True), (tiny23, False)):
        checkpoint = open_checkpoint(files.checkpoint)
        assert "is unknown" in str(checkpoint.lora_report(Component.TRANSFORMER, plain))
        report = checkpoint.lora_report(Component.TRANSFORMER, stated)
        assert report.wrong_generation is wrong
        assert "is unknown" not in str(report)


def test_a_lora_of_2_3_on_2_5_is_a_note(write):
    metadata = {"model_version": "2.3.0"}
    lora = open_lora(write(pair(Q0), metadata))
    shapes = {f"{Q0}.weight": (64, 64)}
    report = lora.report(Component.TRANSFORMER, shapes, "2.5")
    assert "made for LTX-2.3, as most LoRAs that are used with LTX-2.5 are" in str(report)
    assert report.is_clean
    assert "made for LTX-2.3" not in str(lora.report(Component.TRANSFORMER, shapes, "2.3"))


def test_each_stream_follows_its_own_strength_and_cross_layers_the_one_they_update(tiny20, write):
    checkpoint = open_checkpoint(tiny20.checkpoint)
    shapes = checkpoint.shapes(Component.TRANSFORMER)
    video = (Q0, "transformer_blocks.1.audio_to_video_attn.to_v", "av_ca_a2v_gate_adaln_single.linear")
    audio = (
        "transformer_blocks.0.audio_attn2.to_k",
        "transformer_blocks.1.video_to_audio_attn.to_v",
        "av_ca_audio_scale_shift_adaln_single.linear",
        "audio_caption_projection.linear_1",
    )
    tensors = {}
    for module in (*video, *audio):
        tensors |= pair(module, *shapes[f"{module}.weight"])
    path = write(tensors)
    plain = checkpoint.load(Component.TRANSFORMER).state_dict()
    for strengths, changed in (((1.0, 0.0), video), ((0.0, 1.0), audio)):
        lora = open_lora(path, video_strength=strengths[0], audio_strength=strengths[1])
        state = checkpoint.load(Component.TRANSFORMER, loras=[lora]).state_dict()
        assert {n for n in plain if not torch.equal(plain[n], state[n])} == {f"{m}.weight" for m in changed}


def test_files_that_are_not_a_plain_lora_are_refused(tiny20, write):
    with pytest.raises(ValueError, match="is not a LoRA"):
        open_lora(tiny20.upsampler)
    with pytest.raises(ValueError, match="one half of the pair is missing for transformer_blocks"):
        open_lora(write({f"diffusion_model.{Q0}.lora_A.weight": torch.zeros(4, 64)}))
    with pytest.raises(ValueError, match=r"unsupported LoRA kind: .*surprise"):
        open_lora(write({**pair(Q0), f"diffusion_model.{Q0}.surprise": torch.zeros(64)}))
    with pytest.raises(ValueError, match="finite"):
        open_lora(tiny20.lora, float("nan"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_A.weight": torch.zeros(())}, "no rank"),
        ({"lora_A.weight": torch.zeros(0, 64), "lora_B.weight": torch.zeros(64, 0)}, "no rank"),
        ({"lora_B.weight": torch.zeros(64, 4, dtype=torch.int8)}, "holds I8"),
        ({"alpha": torch.zeros(2)}, "must be one number"),
    ],
)
def test_odd_tensors_are_refused_when_the_file_is_opened(changes, message, write):
    tensors = {**pair(Q0), **{f"diffusion_model.{Q0}.{ending}": t for ending, t in changes.items()}}
    with pytest.raises(ValueError, match=rf"lora.safetensors: .*{message}"):
        open_lora(write(tensors, {"lora_adapter_metadata": '{"transformer.lora_alpha": 4}'}))


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_an_alpha_that_is_not_a_number_does_not_reach_the_weights(alpha, tiny20, write):
    lora = open_lora(write({**pair(Q0), f"diffusion_model.{Q0}.alpha": torch.tensor(alpha)}))
    with pytest.raises(ValueError, match=r"lora\.safetensors: .*scaled by (nan|inf)"):
        open_checkpoint(tiny20.checkpoint).load(Component.TRANSFORMER, loras=[lora])


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("OFT", "oft_blocks"),
        ("LoCon", "lora_mid.weight"),
        ("biases", "lora_B.bias"),
        ("full differences", "diff"),
    ],
)
def test_other_kinds_are_refused_by_name(kind, ending, write):
    path = write({**pair(Q0), f"diffusion_model.{Q0}.{ending}": torch.zeros(64)})
    with pytest.raises(ValueError, match=rf"lora.safetensors is of the kind .*{kind}.*{ending}"):
        open_lora(path)


def test_reference_factors_come_from_the_metadata(write):
    lora = open_lora(write(pair(Q0), {"reference_downscale_factor": "2"}))
    assert (lora.reference_downscale_factor, lora.reference_temporal_scale_factor) == (2, 1)
    assert open_lora(write(pair(Q0))).reference_downscale_factor == 1
    with pytest.raises(ValueError, match="reference_downscale_factor must be a whole number"):
        _ = open_lora(write(pair(Q0), {"reference_downscale_factor": "0.5"})).reference_downscale_factor


def test_a_lora_file_is_recognised_as_one(tiny20):
    assert open_checkpoint(tiny20.lora).components == {Component.LORA}
