"""Noise masks in every form that nodes of the host and of other packs give them."""

from __future__ import annotations

import json
from typing import Any

import comfy.nested_tensor
import comfy.utils
import torch
from comfy_api.latest import io


class LTX2ProbeNoiseMask(io.ComfyNode):
    """A LATENT with a noise mask of a form; with ``as_core`` as the host's sampler reads it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeNoiseMask",
            inputs=[io.Latent.Input("latent"), io.String.Input("form"), io.Boolean.Input("as_core")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, latent: Any, form: str, as_core: bool) -> io.NodeOutput:
        samples = latent["samples"]
        nested = getattr(samples, "is_nested", False)
        streams = samples.unbind() if nested else [samples]
        mask = _mask(form, streams)
        if as_core:
            mask = _as_core(mask, streams)
        return io.NodeOutput({**latent, "noise_mask": mask})


class LTX2ProbeBatchIndex(io.ComfyNode):
    """A LATENT with ``batch_index``, as nodes that take clips out of a batch leave it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeBatchIndex",
            inputs=[io.Latent.Input("latent"), io.String.Input("indices")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, latent: Any, indices: str) -> io.NodeOutput:
        return io.NodeOutput({**latent, "batch_index": [int(one) for one in indices.split(",")]})


class LTX2ProbeMarked(io.ComfyNode):
    """A LATENT with a key that this pack does not know, from a host after 0.33."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeMarked", inputs=[io.Latent.Input("latent")], outputs=[io.Latent.Output()]
        )

    @classmethod
    def execute(cls, latent: Any) -> io.NodeOutput:
        return io.NodeOutput({**latent, "generated_keyframe_indices": [0, 8]})


class LTX2ProbeMarks(io.ComfyNode):
    """Report of that key."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeMarks", inputs=[io.Latent.Input("latent")], outputs=[], is_output_node=True
        )

    @classmethod
    def execute(cls, latent: Any) -> io.NodeOutput:
        return io.NodeOutput(ui={"report": [json.dumps(latent.get("generated_keyframe_indices"))]})


class LTX2ProbeVideoNoise(io.ComfyNode):
    """Noise for the video of a latent alone, whatever the latent holds."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="LTX2ProbeVideoNoise", inputs=[], outputs=[io.Noise.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(_VideoNoise())


class _VideoNoise:
    seed = 1

    def generate_noise(self, latent: Any) -> torch.Tensor:
        return torch.randn(latent["samples"].unbind()[0].shape)


def _mask(form: str, streams: list[torch.Tensor]) -> Any:
    generator = torch.Generator().manual_seed(7)

    def values(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    batch, _, frames, *space = streams[0].shape
    return {
        "plain": lambda: values(48, 64),
        "images": lambda: values(3, 48, 64),
        "one set by core": lambda: values(1, 1, 48, 64),
        "two set by core": lambda: values(2, 1, 48, 64),
        "latent frames": lambda: values(1, 1, frames, 1, 1),
        "other frames": lambda: values(1, 1, frames + 2, 6, 4),
        "every value": lambda: values(*streams[0].shape),
        "more than the batch": lambda: values(batch + 1, 1, frames, *space),
        "nested": lambda: comfy.nested_tensor.NestedTensor(
            [values(1, 1, frames, 1, 1), *(values(1, 1, one.shape[2], 1) for one in streams[1:])]
        ),
        "nested images": lambda: comfy.nested_tensor.NestedTensor(
            [values(2, 48, 64), *(values(1, *one.shape[2:]) for one in streams[1:])]
        ),
        "half precision": lambda: values(1, 1, frames, *space).half(),
        "larger images": lambda: values(batch, 160, 96),
        "every frame in channels": lambda: values(1, frames, 6, 4),
        "nested of another length": lambda: comfy.nested_tensor.NestedTensor(
            [values(1, 1, frames + 3, 1, 1), *(values(1, 1, one.shape[2] + 5, 1) for one in streams[1:])]
        ),
        "nested of one": lambda: comfy.nested_tensor.NestedTensor([values(1, 1, frames, 1, 1)]),
    }[form]()


def _as_core(mask: Any, streams: list[torch.Tensor]) -> Any:
    """The rule of the host's CFGGuider.sample."""
    masks = list(mask.unbind()) if getattr(mask, "is_nested", False) else [mask]
    masks = masks[: len(streams)]
    masks += [torch.ones(one.shape) for one in streams[len(masks) :]]
    full = [comfy.utils.reshape_mask(one, stream.shape) for one, stream in zip(masks, streams, strict=True)]
    return full[0] if len(full) == 1 else comfy.nested_tensor.NestedTensor(full)
