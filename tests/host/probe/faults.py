"""Memory that runs out, and the stop button, at chosen operations of every phase of a graph."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from comfy_api.latest import io
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .loaders import _host

OPERATIONS = ("linear", "conv3d", "conv2d", "conv1d", "scaled_dot_product_attention", "cat")
Act = Callable[[], None]


class _At(TorchFunctionMode):
    """Counts operations, and acts at call ``number`` of ``name``; ``after`` counts those that follow."""

    def __init__(self, name: str = "", number: int = -1, act: Act | None = None) -> None:
        super().__init__()
        self.name, self.number, self.act = name, number, act
        self.calls: Counter[str] = Counter()
        self.after = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in OPERATIONS:
            self.after += self.calls[self.name] > self.number >= 0
            self.calls[name] += 1
            if name == self.name and self.calls[name] == self.number + 1 and self.act is not None:
                self.act()
        return func(*args, **(kwargs or {}))


class LTX2ProbeFaults(io.ComfyNode):
    """Run every phase with a fault at several operations; report what was not as it should be."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeFaults",
            is_output_node=True,
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip"),
                io.Vae.Input("video_vae"),
                io.Vae.Input("audio_vae"),
                io.Conditioning.Input("positive"),
                io.Latent.Input("latent"),
                io.String.Input("kind"),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, video_vae: Any, audio_vae: Any, positive: Any, latent: Any, kind: str
    ) -> io.NodeOutput:
        phases = _phases(model, clip, video_vae, audio_vae, positive, latent["samples"])
        check = _memory if kind == "memory" else _interrupted
        report = [line for name, work in phases.items() for line in check(name, work)]
        return io.NodeOutput(ui={"report": [json.dumps({"wrong": report, "phases": list(phases)})]})


def _phases(
    model: Any, clip: Any, video_vae: Any, audio_vae: Any, positive: Any, samples: Any
) -> dict[str, Any]:
    video, audio = samples.unbind()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(9, 64, 64, 3, generator=generator)
    waveform = torch.rand(1, 16000, 2, generator=generator) - 0.5
    sigmas = torch.tensor([1.0, 0.5, 0.0])

    def sampled() -> Tensor:
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, positive)
        guider.set_cfg(1.0)
        sampler = comfy.samplers.sampler_object("euler")
        run = _host("sampling").run
        return run(guider, sampler, {"samples": samples}, seed=1, sigmas=sigmas)["samples"].unbind()[0]

    def encoded() -> Tensor:
        clip.recent.clear()
        return clip.encode_from_tokens(clip.tokenize("a red ball"))

    return {
        "text": encoded,
        "step": sampled,
        "decode": lambda: video_vae.decode(torch.randn(video.shape, generator=generator.manual_seed(1))),
        "audio decode": lambda: audio_vae.decode(
            torch.randn(audio.shape, generator=generator.manual_seed(2))
        ),
        "encode": lambda: video_vae.encode(images),
        "audio encode": lambda: audio_vae.encode(waveform),
    }


def _points(work: Callable[[], Tensor]) -> tuple[Tensor, list[tuple[str, int]]]:
    work()
    with _At() as free:
        expected = work()
    return expected, [
        (name, number) for name, count in free.calls.items() for number in sorted({0, count // 2, count - 1})
    ]


def _memory(phase: str, work: Callable[[], Tensor]) -> list[str]:
    def refuse() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    expected, points = _points(work)
    wrong = []
    for name, number in points:
        where = f"{phase}, {name} {number}"
        try:
            with _At(name, number, refuse):
                found = work()
        except Exception as error:  # noqa: BLE001 every kind is reported
            if "memory ran out while" not in str(error) or "\n" in str(error):
                wrong.append(f"{where}: {type(error).__name__}: {error}")
        else:
            if not torch.equal(found, expected):
                wrong.append(f"{where}: {float((found - expected).abs().max()):.1e} off")
    return wrong


def _interrupted(phase: str, work: Callable[[], Tensor]) -> list[str]:
    expected, points = _points(work)
    wrong = []
    for name, number in points[:1]:
        try:
            with _At(name, number, comfy.model_management.interrupt_current_processing) as mode:
                work()
        except comfy.model_management.InterruptProcessingException:
            pass
        else:
            wrong.append(f"{phase}: ran to its end, {mode.after} operations after the interrupt")
        comfy.model_management.interrupt_current_processing(False)
        if not torch.equal(work(), expected):
            wrong.append(f"{phase}: the next run differs")
    return wrong


class LTX2ProbeOverflow(io.ComfyNode):
    """A MODEL whose second block overflows, although its weights are finite."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeOverflow", inputs=[io.Model.Input("model")], outputs=[io.Model.Output()]
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        clone = model.clone()
        key = "diffusion_model.transformer_blocks.1.ff.net.2.weight"
        weight = clone.model.state_dict()[key]
        clone.add_patches({key: ("diff", (torch.full_like(weight, 3e38),))}, 1.0)
        return io.NodeOutput(clone)
