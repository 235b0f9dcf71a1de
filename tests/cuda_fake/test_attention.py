"""Every backend of attention on a pretended GPU: which can be chosen, what it computes, why one cannot."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import on_cuda, pretend
from fake_runs import Guide, pipeline_on_device, sample
from torch.nn.functional import scaled_dot_product_attention

from ltx2_core.attention import CHOICES, attention_by, attention_with_sums, why_not
from ltx2_core.cli.environment import examine
from ltx2_core.run.execution import Execution

CUDA, BFLOAT16 = torch.device("cuda", 0), torch.bfloat16
CPU = torch.device("cpu")


def install(monkeypatch: pytest.MonkeyPatch, name: str, *, wrong: bool = False) -> list[str]:
    """Put a package ``name`` that computes plain attention in place; returns the calls that it gets."""
    calls: list[str] = []

    def flash(q, k, v):
        calls.append("flash3")
        return scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2) + wrong

    def sage(q, k, v, *, tensor_layout, is_causal):
        assert (tensor_layout, is_causal) == ("HND", False)
        calls.append("sage")
        return scaled_dot_product_attention(q, k, v) + wrong

    package = {"flash_attn_interface": {"flash_attn_func": flash}, "sageattention": {"sageattn": sage}}[name]
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**package))
    return calls


@pytest.mark.parametrize(
    ("choice", "capability", "package"),
    [("flash3", (9, 0), "flash_attn_interface"), ("sage", (8, 9), "sageattention")],
)
def test_a_package_computes_what_it_takes_and_pytorch_the_rest(monkeypatch, choice, capability, package):
    calls = install(monkeypatch, package)
    with pretend(capability=capability) as device, torch.inference_mode():
        run = attention_by(choice, CUDA)
        calls.clear()
        q, k, v = on_cuda([torch.randn(1, 2, 6, 64, dtype=BFLOAT16) for _ in range(3)])
        run(q, k, v, None)
        assert calls == [choice]
        run(q, k, v, on_cuda(torch.zeros(1, 6, dtype=BFLOAT16)))
        run(q.float(), k.float(), v.float(), None)
        run(*(t[..., :16] for t in (q, k, v)), None)
        assert calls == [choice]
        assert device.masked == 1


def sums_of_flash(asked: bool, wrong: float, calls: list[int]):
    """The function of FlashAttention 3, which returns the logarithms of sums always or when it is asked."""

    def both(q, k, v, softmax_scale=None):
        calls.append(q.shape[-1])
        q, k, v = (t.transpose(1, 2).float() for t in (q, k, v))
        logits = q @ k.mT * (q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale)
        return (logits.softmax(-1) @ v).to(BFLOAT16).transpose(1, 2), logits.logsumexp(-1) + wrong

    def on_request(q, k, v, softmax_scale=None, return_attn_probs=False):
        result = both(q, k, v, softmax_scale)
        return result if return_attn_probs else result[0]

    return on_request if asked else both


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("wrong", [0.0, 0.5])
def test_groups_of_keys_are_joined_by_the_sums_of_flash_attention_3(monkeypatch, asked, wrong):
    calls: list[int] = []
    package = SimpleNamespace(flash_attn_func=sums_of_flash(asked, wrong, calls))
    monkeypatch.setitem(sys.modules, "flash_attn_interface", package)
    with pretend(capability=(9, 0)) as device, torch.inference_mode():
        q, k, v = on_cuda([torch.randn(1, 2, 6, 64, dtype=BFLOAT16) for _ in range(3)])
        out, sums = attention_with_sums(q, k, v, scale=0.2)
        own = device.kernels["_scaled_dot_product_flash_attention"]
        logits = q.cpu().float() @ k.cpu().float().mT * 0.2
        assert torch.allclose(sums.cpu(), logits.logsumexp(-1), atol=0.02)
        assert torch.allclose(out.cpu().float(), logits.softmax(-1) @ v.cpu().float(), atol=0.03)
        # Sums that are wrong in the trial are PyTorch's.
        assert (own > 0) == (wrong > 0)
        calls.clear()
        attention_with_sums(*(torch.cat((t, t[..., :8]), dim=-1) for t in (q, k, v)), scale=0.2)
        assert calls == [], "other widths are PyTorch's"


@pytest.mark.parametrize(
    ("choice", "capability", "why"),
    [
        ("cudnn", (7, 5), "Ampere"),
        ("flash3", (8, 9), "Hopper GPUs .* this one has 8.9"),
        ("flash3", (9, 0), "not installed .* github.com/Dao-AILab"),
        ("sage", (8, 9), "not installed .* pip install sageattention"),
    ],
)
def test_a_backend_that_is_not_there_is_refused_before_anything_is_loaded(choice, capability, why):
    with pretend(capability=capability):
        with pytest.raises(ValueError, match=f"--attention {choice} .*{why}.*Usable here: auto, pytorch"):
            Execution.on("cuda", attention=choice)
        facts = {fact.name: fact for fact in examine()}
    assert facts[f"attention {choice}"].state == "note"
    assert facts["attention pytorch"].state == "ok"


def test_a_package_whose_result_is_wrong_is_refused(monkeypatch):
    install(monkeypatch, "sageattention", wrong=True)
    with pretend(), pytest.raises(ValueError, match="SageAttention failed a trial on a pretended GPU"):
        attention_by("sage", CUDA)


@pytest.mark.parametrize("choice", [name for name in CHOICES if name not in ("auto", "pytorch")])
def test_the_cpu_has_the_choice_of_pytorch_alone(choice):
    with pytest.raises(
        ValueError, match=r"needs an NVIDIA GPU; the device is cpu\. Usable here: auto, pytorch$"
    ):
        Execution.on("cpu", attention=choice)
    assert why_not("pytorch", CPU) is None


def test_a_chosen_backend_computes_the_clip(monkeypatch, tiny_set):
    with pretend() as device:
        plain = sample(pipeline_on_device(tiny_set, BFLOAT16), device).clip
        chosen = sample(pipeline_on_device(tiny_set, BFLOAT16, attention="pytorch"), device).clip
        assert torch.equal(chosen.latents.video.cpu(), plain.latents.video.cpu())


def test_weighted_guides_need_no_mask(tiny_set):
    with pretend() as device:
        pipeline = pipeline_on_device(tiny_set, BFLOAT16, keep_loaded=True)
        sample(pipeline, device)
        text = device.masked
        sampled = sample(pipeline, device, conditioning=[Guide(attention=0.5)])
        assert device.masked == 2 * text, "only that of the text"
        assert device.kernels["_scaled_dot_product_flash_attention"] > 0
        assert sampled.waits == [{}] * len(sampled.waits)
