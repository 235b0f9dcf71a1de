"""Inputs from nothing, and outputs to files."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import folder_paths
import node_helpers
import torch
from comfy_api.latest import io
from safetensors.torch import save_file


class LTX2ProbeImage(io.ComfyNode):
    """Smooth random frames in 0..1: what a VAE can be compared on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeImage",
            inputs=[
                io.Int.Input("seed"),
                io.Int.Input("frames", default=1),
                io.Int.Input("width", default=64),
                io.Int.Input("height", default=64),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, seed: int, frames: int, width: int, height: int) -> io.NodeOutput:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(1, 3, max(2, frames // 4), 4, 4, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(frames, height, width), mode="trilinear")
        return io.NodeOutput(smooth[0].movedim(0, -1).contiguous())


class LTX2ProbeAudio(io.ComfyNode):
    """A chord in stereo."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeAudio",
            inputs=[
                io.Int.Input("samples", default=8000),
                io.Int.Input("sample_rate", default=16000),
                io.Int.Input("channels", default=2),
            ],
            outputs=[io.Audio.Output()],
        )

    @classmethod
    def execute(cls, samples: int, sample_rate: int, channels: int) -> io.NodeOutput:
        t = torch.arange(samples) / sample_rate
        voices = [0.3 * torch.sin(6.2832 * f * t) + 0.2 * torch.sin(6.2832 * 1.5 * f * t) for f in (220, 330)]
        return io.NodeOutput({"waveform": torch.stack(voices)[:channels][None], "sample_rate": sample_rate})


class LTX2ProbeFrameMask(io.ComfyNode):
    """Set a noise mask of one value per latent frame, for video or audio."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeFrameMask",
            inputs=[io.Latent.Input("latent"), io.String.Input("values")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, latent: Any, values: str) -> io.NodeOutput:
        numbers = torch.tensor([float(v) for v in values.split(",")])
        shape = (1, 1, -1, 1, 1) if latent["samples"].ndim == 5 else (1, 1, -1, 1)
        mask = numbers.view(shape).expand(latent["samples"].shape[0], 1, *latent["samples"].shape[2:])
        return io.NodeOutput({**latent, "noise_mask": mask.contiguous()})


class LTX2ProbeSlots(io.ComfyNode):
    """Append slots of generated keyframes, in the form of the host's LTXVAddGeneratedKeyframes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeSlots",
            inputs=[
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Latent.Input("latent"),
                io.String.Input("frames"),
                io.Boolean.Input("marked"),
                io.Int.Input("cells"),
            ],
            outputs=[io.Conditioning.Output(), io.Conditioning.Output(), io.Latent.Output()],
        )

    @classmethod
    def execute(
        cls, positive: Any, negative: Any, latent: Any, frames: str, marked: bool, cells: int
    ) -> io.NodeOutput:
        at, samples = [int(frame) for frame in frames.split(",")], latent["samples"]
        batch, _, first, height, width = samples.shape
        entry = {
            "pre_filter_count": len(at) * height * width,
            "strength": 1.0,
            "pixel_mask": None,
            "latent_shape": [len(at), height, width],
        }
        described = []
        for conditioning in (positive, negative):
            values = conditioning[0][1]
            before, entries = values.get("keyframe_idxs"), values.get("guide_attention_entries") or []
            own = _slot_coordinates(at, height, width)
            added = {
                "keyframe_idxs": own if before is None else torch.cat((before, own), dim=2),
                "guide_attention_entries": [*entries, entry],
            }
            if marked:
                added["generated_keyframes"] = {
                    "first_latent_frame": first,
                    "num_keyframes": len(at),
                    "frame_indices": at,
                    "num_pixel_frames": 8 * (first - 1) + 1,
                    "guide_entry_index": len(entries),
                    "tokens_per_frame": cells or height * width,
                }
            described.append(node_helpers.conditioning_set_values(conditioning, added))
        mask = latent.get("noise_mask", torch.ones(batch, 1, first, 1, 1))
        return io.NodeOutput(
            *described,
            {
                **latent,
                "samples": torch.cat((samples, samples.new_zeros(*samples[:, :, : len(at)].shape)), dim=2),
                "noise_mask": torch.cat((mask, torch.ones(*mask[:, :, : len(at)].shape)), dim=2),
            },
        )


def _slot_coordinates(at: list[int], height: int, width: int) -> torch.Tensor:
    """(1, 3, G, 2): each slot is one pixel frame on the full grid."""
    grid = torch.meshgrid(
        torch.tensor(at), 32 * torch.arange(height), 32 * torch.arange(width), indexing="ij"
    )
    starts = torch.stack([axis.flatten() for axis in grid]).float()
    return torch.stack((starts, starts + torch.tensor([[1.0], [32.0], [32.0]])), dim=-1)[None]


class LTX2ProbeTinyDecoder(io.ComfyNode):
    """Write a tiny decoder of random weights, with 0 channels a file that is none, into the host's folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeTinyDecoder",
            inputs=[io.Int.Input("channels"), io.String.Input("name")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, channels: int, name: str) -> io.NodeOutput:
        from comfy.taesd.taehv import TAEHV

        torch.manual_seed(0)
        state = TAEHV(channels).state_dict() if channels else {"nothing": torch.zeros(1)}
        folder = Path(folder_paths.get_folder_paths("vae_approx")[0])
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous().clone() for k, v in state.items()}, folder / name)
        return io.NodeOutput()


class LTX2ProbeDump(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2ProbeDump",
            inputs=[
                io.String.Input("name"),
                io.Latent.Input("latent", optional=True),
                io.Image.Input("image", optional=True),
                io.Audio.Input("audio", optional=True),
                io.Conditioning.Input("conditioning", optional=True),
                io.Sigmas.Input("sigmas", optional=True),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        name: str,
        latent: Any = None,
        image: Any = None,
        audio: Any = None,
        conditioning: Any = None,
        sigmas: Any = None,
    ) -> io.NodeOutput:
        found: dict[str, torch.Tensor] = {}
        if latent is not None:
            _collect(found, "latent", latent["samples"])
            _collect(found, "mask", latent.get("noise_mask"))
        if audio is not None:
            found["waveform"] = audio["waveform"]
            found["sample_rate"] = torch.tensor(audio["sample_rate"])
        if conditioning is not None:
            found["cond"] = conditioning[0][0]
            for key, value in conditioning[0][1].items():
                if isinstance(value, torch.Tensor):
                    found[f"cond/{key}"] = value
                elif isinstance(value, (bool, int, float)):
                    found[f"cond/{key}"] = torch.tensor(value)
        if image is not None:
            found["image"] = image
        if sigmas is not None:
            found["sigmas"] = sigmas
        file = f"{uuid.uuid4().hex}.safetensors"
        save_file(
            {k: v.contiguous().clone() for k, v in found.items()},
            Path(folder_paths.get_output_directory()) / file,
        )
        return io.NodeOutput(ui={"dump_name": [name], "dump_file": [file]})


def _collect(found: dict[str, torch.Tensor], name: str, value: Any) -> None:
    if value is None:
        return
    if getattr(value, "is_nested", False):
        for stream, tensor in zip(("video", "audio"), value.unbind(), strict=False):
            found[f"{name}/{stream}"] = tensor
    else:
        found[name] = value
