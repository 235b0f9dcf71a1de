"""LoKr, LoHa and DoRA: every form merges as its formula says, and damaged ones are named."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch

from ltx2_core.loading import Component, open_checkpoint, open_lora
from ltx2_core.loading.lora_dialects import PREFIXES
from ltx2_core.run.lora_files import warn_of_stacked

MODULE = "transformer_blocks.0.attn1.to_q"
ALPHA = 3.0


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) / 4


def tucker(core, a, b):
    return torch.einsum("ijkl,jr,ip->prkl", core, b, a)[..., 0, 0].contiguous()


@pytest.fixture
def checkpoint(tiny20):
    return open_checkpoint(tiny20.checkpoint)


def size(checkpoint):
    return checkpoint.shapes(Component.TRANSFORMER)[f"{MODULE}.weight"]


def merged_weight(checkpoint, lora):
    return checkpoint.load(Component.TRANSFORMER, loras=[lora]).state_dict()[f"{MODULE}.weight"]


def forms(rows, columns):
    """Tensors of each form and its change at strength 1, without alpha and with it."""
    half = rows // 4, columns // 2
    w1, w2 = randn(4, 2), randn(*half)
    w2_a, w2_b = randn(half[0], 5), randn(5, half[1])
    w1_a, w1_b = randn(4, 1), randn(1, 2)
    t2, t2_a, t2_b = randn(5, 6, 1, 1), randn(5, half[0]), randn(6, half[1])
    h = {
        "1a": randn(rows, 3),
        "1b": randn(3, columns),
        "2a": randn(rows, 3) + 0.1,
        "2b": randn(3, columns) - 1,
    }
    c = {"t1": randn(2, 3, 1, 1), "t2": randn(2, 3, 1, 1) + 1, "a": randn(2, rows), "b": randn(3, columns)}
    return {
        "lokr": ({"lokr_w1": w1, "lokr_w2": w2}, torch.kron(w1, w2), None),
        "lokr of halves": (
            {"lokr_w1_a": w1_a, "lokr_w1_b": w1_b, "lokr_w2_a": w2_a, "lokr_w2_b": w2_b},
            torch.kron(w1_a @ w1_b, w2_a @ w2_b),
            5,
        ),
        "lokr of a half": (
            {"lokr_w1_a": w1_a, "lokr_w1_b": w1_b, "lokr_w2": w2},
            torch.kron(w1_a @ w1_b, w2),
            1,
        ),
        "lokr with tucker": (
            {"lokr_w1": w1, "lokr_t2": t2, "lokr_w2_a": t2_a, "lokr_w2_b": t2_b},
            torch.kron(w1, tucker(t2, t2_a, t2_b)),
            6,
        ),
        "loha": (
            {"hada_w1_a": h["1a"], "hada_w1_b": h["1b"], "hada_w2_a": h["2a"], "hada_w2_b": h["2b"]},
            (h["1a"] @ h["1b"]) * (h["2a"] @ h["2b"]),
            3,
        ),
        "loha with tucker": (
            {
                "hada_t1": c["t1"],
                "hada_w1_a": c["a"],
                "hada_w1_b": c["b"],
                "hada_t2": c["t2"],
                "hada_w2_a": c["a"].clone(),
                "hada_w2_b": c["b"].clone(),
            },
            (tucker(c["t1"], c["a"], c["b"]) * tucker(c["t2"], c["a"], c["b"])),
            3,
        ),
        "lora": ({"lora_A.weight": h["1b"], "lora_B.weight": h["1a"]}, h["1a"] @ h["1b"], 3),
    }


FORMS = tuple(forms(64, 64))


@pytest.mark.parametrize("strength", [1.0, -0.6])
@pytest.mark.parametrize("alpha", [None, ALPHA])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_adds_its_change(form, alpha, strength, checkpoint, write):
    factors, change, rank = forms(*size(checkpoint))[form]
    tensors = {f"diffusion_model.{MODULE}.{role}": tensor for role, tensor in factors.items()}
    if alpha is not None:
        tensors[f"diffusion_model.{MODULE}.alpha"] = torch.tensor(alpha)
    lora = open_lora(write(tensors), strength)
    scale = alpha / rank if alpha is not None and rank else 1.0
    before = merged_weight(checkpoint, open_lora(write(tensors, name="off.safetensors"), 0.0))
    expected = before + strength * scale * change
    torch.testing.assert_close(merged_weight(checkpoint, lora), expected, rtol=1e-5, atol=1e-5)
    assert checkpoint.lora_report(Component.TRANSFORMER, lora).matched == (MODULE,)
    assert lora.kinds == ({"lokr": "LoKr", "loha": "LoHa", "lora": "LoRA"}[form[:4]],)


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("magnitude", ["dora_scale of rows", "dora_scale of columns", "PEFT", "PEFT adapter"])
def test_a_dora_rescales_rows_or_columns(magnitude, form, strength, checkpoint, write):
    rows, columns = size(checkpoint)
    factors, change, _ = forms(rows, columns)[form]
    tensors = {f"{MODULE}.{role}": tensor for role, tensor in factors.items()}
    plain = merged_weight(checkpoint, open_lora(write(tensors, name="off.safetensors"), 0.0))
    merged = plain + change
    if magnitude == "dora_scale of columns":
        scale = randn(1, columns).abs() + 1
        name, goal = "dora_scale", merged * scale / merged.norm(dim=0, keepdim=True)
    elif magnitude == "dora_scale of rows":
        scale = randn(rows, 1).abs() + 1
        name, goal = "dora_scale", merged * scale / plain.norm(dim=1, keepdim=True)
    else:
        scale = randn(rows).abs() + 1
        name = "lora_magnitude_vector" + (".default.weight" if magnitude == "PEFT adapter" else "")
        goal = merged * scale[:, None] / merged.norm(dim=1, keepdim=True)
    lora = open_lora(write({**tensors, f"{MODULE}.{name}": scale}), strength)
    expected = plain + strength * (goal - plain)
    torch.testing.assert_close(merged_weight(checkpoint, lora), expected, rtol=1e-4, atol=1e-5)
    assert "DoRA" in lora.kinds[0]


def test_kinds_switch_without_drift(checkpoint, write):
    own = forms(*size(checkpoint))
    rows = {f"{MODULE}.dora_scale": torch.ones(size(checkpoint)[0], 1)}
    loras = [
        open_lora(
            write({**{f"{MODULE}.{r}": t for r, t in own[form][0].items()}, **more}, name=f"{n}.safetensors")
        )
        for n, (form, more) in enumerate([("lokr", {}), ("lora", rows), ("loha", {}), ("lora", {})])
    ]
    network, before = checkpoint.load(Component.TRANSFORMER, loras=loras[:1]), loras[:1]
    for after in (loras[1:], [], loras, loras[::-1], loras[:1]):
        checkpoint.switch_loras(network, Component.TRANSFORMER, before=before, after=after)
        fresh = checkpoint.load(Component.TRANSFORMER, loras=after).state_dict()
        assert torch.equal(network.state_dict()[f"{MODULE}.weight"], fresh[f"{MODULE}.weight"])
        before = after


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lokr_w2": None}, "needs lokr_w2 or both of"),
        ({"lokr_w2_a": torch.ones(4, 4)}, "needs lokr_w2 or both of"),
        ({"hada_w1_a": torch.ones(4, 4)}, "lacks"),
        ({"lora_A.weight": torch.ones(4, 4)}, "also has a pair"),
        ({"lokr_w1": torch.ones(0, 4)}, "no rank"),
        ({"lokr_w1": torch.ones(4)}, "a matrix is needed"),
        ({"lokr_w1": torch.ones(4, 4, dtype=torch.int8)}, "holds I8"),
        (
            {"lokr_w2": None, "lokr_w2_a": torch.ones(4, 5), "lokr_w2_b": torch.ones(6, 4)},
            "cannot be multiplied",
        ),
        ({"dora_scale": torch.ones(7, 1)}, "does not fit a change"),
        ({"dora_scale": torch.ones(())}, "does not fit a change"),
        ({"alpha": torch.ones(2)}, "must be one number"),
    ],
)
def test_damaged_factors_are_named(changes, message, write):
    tensors = {"lokr_w1": torch.ones(4, 4), "lokr_w2": torch.ones(8, 8), **changes}
    path = write({f"{MODULE}.{role}": tensor for role, tensor in tensors.items() if tensor is not None})
    with pytest.raises(ValueError, match=rf"lora\.safetensors.*{message}"):
        open_lora(path)


@pytest.mark.parametrize("first", PREFIXES)
@pytest.mark.parametrize("second", ["", *PREFIXES])
@pytest.mark.parametrize("third", ["", "transformer.", "base_model.model."])
def test_prefixes_are_removed_in_any_order(first, second, third, write):
    module = first + second + third + MODULE
    lora = open_lora(
        write({f"{module}.lora_A.weight": torch.ones(2, 64), f"{module}.lora_B.weight": torch.ones(64, 2)})
    )
    assert set(lora.layers) == {MODULE}


def test_two_stacked_ic_loras_are_warned_of(tiny20, write, caplog, tmp_path):
    tensors = {f"{MODULE}.lora_A.weight": torch.ones(2, 64), f"{MODULE}.lora_B.weight": torch.ones(64, 2)}
    first = write(tensors, {"reference_downscale_factor": "2"}, name="depth.safetensors")
    second = Path(shutil.copy(first, tmp_path / "canny.safetensors"))
    plain = write(tensors)
    with caplog.at_level(logging.WARNING):
        warn_of_stacked([open_lora(first), open_lora(plain), open_lora(second, 0.0)])
        assert not caplog.text
        warn_of_stacked([open_lora(first), open_lora(plain), open_lora(second)])
    assert "depth.safetensors and canny.safetensors: two IC-LoRAs are stacked" in caplog.text
