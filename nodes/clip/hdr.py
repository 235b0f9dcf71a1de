"""Nodes for HDR clips: images in linear light are loaded from EXR, decoded from latents, and saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

import folder_paths
import torch
from comfy_api.latest import io, ui
from einops import rearrange
from torch import Tensor

from ...ltx2_core.editing.to_hdr import every_second
from ...ltx2_core.media.exr import SUFFIX, exr_primaries, is_exr, open_exr, read_exr
from ...ltx2_core.media.hdr_space import HDR_SPACES, HdrCurve, light_of
from ..conditioning.attached import refuse_guides
from ..convert import image_from_frames, video_of
from ..host.latents import Latent
from ..host.values import Audio, Vae
from ..host.video import decoded_frames
from ..host.video_vae import in_float32
from ..inputs import fps_input, iclora_parameters_input
from .hdr_files import read_curve, save_light

CATEGORY = "LTX-2/hdr"
BY_LORA = "by the LoRA"
MASTER, IMAGES = "EXR images and HLG master", "EXR images"


class LTX2AVLoadEXR(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVLoadEXR",
            has_intermediate_output=True,
            display_name="LTX-2 Load EXR",
            search_aliases=["exr", "hdr", "open exr", "load hdr", "image sequence", "aces", "linear"],
            category=CATEGORY,
            description="Loads an EXR image, or a folder of them as a clip, in linear light. For image "
            "inputs of LTX-2.5 connect codes: the log codes that the model reads, with crf 0.",
            inputs=[
                io.Combo.Input(
                    "image",
                    options=exr_sources(),
                    tooltip="EXR image, or folder of numbered EXR images, in ComfyUI's input folder.",
                ),
                colours_input("Colours of the file."),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="Linear light, not limited to 1."),
                io.Image.Output(display_name="codes", tooltip="The same as log codes in 0 to 1 (ACEScct)."),
                io.String.Output(display_name="report", tooltip="Number, size and stated colours."),
            ],
        )

    @classmethod
    def validate_inputs(cls, image: str | None = None) -> bool | str:
        if image is None or image in exr_sources():
            return True
        return f"there is no EXR image or folder of EXR images called {image!r} in ComfyUI's input folder"

    @classmethod
    def execute(cls, image: str, colours: str) -> io.NodeOutput:
        path, space = Path(folder_paths.get_input_directory()) / image, HDR_SPACES[colours]
        files = sorted(one for one in path.iterdir() if is_exr(one)) if path.is_dir() else [path]
        stored = [read_exr(file) for file in files]
        _check_sizes(files, stored)
        codes = space.to_codes(torch.cat(stored))
        light = light_of(codes, "acescct", HDR_SPACES["acescg"]) if space.is_log else torch.cat(stored)
        primaries = exr_primaries(files[0])
        report = f"{len(stored)} images of {light.shape[3]} x {light.shape[2]}, stated primaries: {primaries}"
        return io.NodeOutput(
            image_from_frames(light), image_from_frames(codes), report, ui=ui.PreviewText(report)
        )


class LTX2AVDecodeHDR(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVDecodeHDR",
            display_name="LTX-2 Decode HDR",
            search_aliases=["hdr", "vae decode", "exr", "logc3", "acescct", "aces", "linear", "tonemap"],
            category=CATEGORY,
            description="Decodes a latent of an HDR clip in float32 to images in linear light, where 1 is "
            "diffuse white and highlights are brighter. For LTX-2 Save HDR, and for nodes that grade light.",
            inputs=[
                io.Vae.Input("video_vae", tooltip="Video VAE of the checkpoint."),
                io.Latent.Input("latent", tooltip="Sampled latent: audio-video, or video only."),
                io.Combo.Input(
                    "curve",
                    options=[BY_LORA, *get_args(HdrCurve)],
                    tooltip="Log codes of the latent. by the LoRA: those of the HDR IC-LoRA in "
                    "iclora_parameters, else acescct, which LTX-2.5 itself generates.",
                ),
                colours_input("Colours of the images; acescct are log codes and not light."),
                iclora_parameters_input(),
                io.Boolean.Input(
                    "every_second_frame",
                    default=False,
                    optional=True,
                    tooltip="On with double_frames of LTX-2 Add Guide: the 2nd, 4th, ... frame of the clip "
                    "is left out.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="Linear light, not limited to 1."),
                io.String.Output(display_name="colours", tooltip="For colours of LTX-2 Save HDR."),
            ],
        )

    @classmethod
    def execute(
        cls,
        video_vae: Vae,
        latent: Latent,
        curve: str,
        colours: str,
        iclora_parameters: Mapping[str, object] | None = None,
        every_second_frame: bool = False,
    ) -> io.NodeOutput:
        refuse_guides(latent, "LTX-2 Decode HDR")
        codes = read_curve(iclora_parameters) if curve == BY_LORA else cast(HdrCurve, curve)
        vae, space = in_float32(video_vae), HDR_SPACES[colours]
        clips = video_of(latent)["samples"].split(1)
        light = []
        for clip in clips:
            chunks = decoded_frames(vae, (clip,))
            light += [
                light_of((chunk.float().cpu() + 1) / 2, codes, space)
                for chunk in (every_second(chunks) if every_second_frame else chunks)
            ]
        return io.NodeOutput(image_from_frames(torch.cat(light)), colours)


class LTX2AVSaveHDR(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVSaveHDR",
            display_name="LTX-2 Save HDR",
            search_aliases=["save exr", "exr sequence", "hlg", "hevc", "10 bit", "hdr video", "master"],
            category=CATEGORY,
            is_output_node=True,
            description="Saves images in linear light as numbered EXR files (half floats), and on request "
            "also as an HLG master: 10-bit HEVC in MP4 with the audio.",
            inputs=[
                io.Image.Input("images", tooltip="From LTX-2 Decode HDR or LTX-2 Load EXR."),
                colours_input("Colours of the images, as the node that made them says."),
                io.Combo.Input("save_as", options=[MASTER, IMAGES], tooltip="What is written."),
                fps_input("For the HLG master."),
                io.String.Input(
                    "filename_prefix",
                    default="hdr/LTX-2",
                    tooltip="Start of the names, in ComfyUI's output folder.",
                ),
                io.Audio.Input("audio", optional=True, tooltip="Audio of the HLG master."),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The folder, or the HLG master.")],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        colours: str,
        save_as: str,
        fps: float,
        filename_prefix: str,
        audio: Audio | None = None,
    ) -> io.NodeOutput:
        open_exr()
        rows, columns = images.shape[1:3]
        # The host finds the next free number of a file; both results are named by it.
        found = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), columns, rows
        )
        folder, name = Path(found[0]), f"{found[1]}_{found[2]:05}_"
        path = folder / (f"{name}.mp4" if save_as == MASTER else f"{name}/")
        light = rearrange(images[..., :3], "n h w c -> n c h w")
        save_light(path, light, colours, fps, audio, as_folder=save_as == IMAGES)
        return io.NodeOutput(str(path), ui=ui.PreviewText(str(path)))


def colours_input(tooltip: str) -> io.Input:
    """A widget for the colour space of images in linear light."""
    more = "srgb-linear: Rec. 709, acescg: ACEScg, acescct: log codes of ACES."
    return io.Combo.Input("colours", options=list(HDR_SPACES), tooltip=f"{tooltip} {more}")


def exr_sources() -> list[str]:
    """The names of EXR images in ComfyUI's input folder, and of folders there that have some."""
    root = Path(folder_paths.get_input_directory())
    return sorted(
        one.name
        for one in (root.iterdir() if root.is_dir() else ())
        if (one.is_dir() and any(one.glob(f"*{SUFFIX}"))) or one.suffix.lower() == SUFFIX
    )


def _check_sizes(files: list[Path], images: list[Tensor]) -> None:
    """Raise ValueError that names the first of ``images`` whose size is not that of the first one."""
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            (height, width), (rows, columns) = image.shape[2:], images[0].shape[2:]
            raise ValueError(
                f"{file.name} is {width} x {height} and {files[0].name} {columns} x {rows}: a clip has "
                "images of one size"
            )
