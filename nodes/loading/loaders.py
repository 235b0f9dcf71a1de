"""Nodes that load checkpoints, text encoders and upscalers from ComfyUI's model folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from comfy_api.latest import io

from ...ltx2_core.loading.checkpoint import open_checkpoint
from ...ltx2_core.loading.file_set import check_generations
from ..host.audio_vae import load_audio_vae
from ..host.clip import load_clip
from ..host.file_list import FileList
from ..host.ltx_video import is_ltx_video
from ..host.upscaler import load_upscaler
from ..host.values import Vae
from ..host.video_vae import load_video_vae
from . import file_lists
from .file_inputs import (
    NETWORKS,
    OURS,
    checkpoint_outputs,
    combo,
    model_input,
    network_input,
    part_inputs,
    text_encoder_input,
)
from .file_lists import NONE, SAME

CATEGORY = "LTX-2/loaders"


class LTX2AVLoadCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVLoadCheckpoint",
            display_name="LTX-2 Load Checkpoint",
            search_aliases=[
                "load model",
                "checkpoint",
                "unet loader",
                "diffusion model",
                "vae loader",
                "fp8",
                "load vae",
            ],
            category=CATEGORY,
            description="Loads the model, the video VAE and the audio VAE of LTX-2 from one checkpoint, from "
            "a diffusers folder or from split files.",
            inputs=[model_input(), *part_inputs(), network_input()],
            outputs=checkpoint_outputs(),
        )

    @classmethod
    def validate_inputs(
        cls,
        ckpt_name: str | None = None,
        video_vae: str | None = None,
        audio_vae: str | None = None,
        text_parts: str | None = None,
    ) -> bool:
        return _check_parts(ckpt_name, video_vae, audio_vae, text_parts)

    @classmethod
    def execute(
        cls,
        ckpt_name: str,
        video_vae: str = SAME,
        audio_vae: str = SAME,
        text_parts: str = SAME,
        network: str = OURS,
    ) -> io.NodeOutput:
        paths = _model_paths(ckpt_name, text_parts)
        _check_generations(paths, video_vae, audio_vae)
        return io.NodeOutput(NETWORKS[network](*paths), *_vaes(ckpt_name, video_vae, audio_vae))


class LTX2AVLoadTextEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVLoadTextEncoder",
            display_name="LTX-2 Load Text Encoder",
            search_aliases=["clip", "gemma", "text encoder", "clip loader"],
            category=CATEGORY,
            description="Loads Gemma together with the text projection that the checkpoint holds.",
            inputs=[
                text_encoder_input(),
                combo(
                    "ckpt_name",
                    file_lists.TEXT_SOURCES,
                    "The checkpoint whose model the text is for: it holds the text projection. For split "
                    "files of 2.3 the projection file, for 2.5 the transformer.",
                ),
            ],
            outputs=[io.Clip.Output(display_name="clip", tooltip="Text encoder for LTX-2 Prompt.")],
        )

    @classmethod
    def validate_inputs(cls, text_encoder: str | None = None, ckpt_name: str | None = None) -> bool:
        return file_lists.check((file_lists.ENCODERS, text_encoder), (file_lists.TEXT_SOURCES, ckpt_name))

    @classmethod
    def execute(cls, text_encoder: str, ckpt_name: str) -> io.NodeOutput:
        source = file_lists.TEXT_SOURCES.path(ckpt_name)
        return io.NodeOutput(load_clip(file_lists.ENCODERS.path(text_encoder), source))


class LTX2AVLoadUpscaler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVLoadUpscaler",
            display_name="LTX-2 Load Latent Upscaler",
            search_aliases=["upscale model", "latent upscaler", "spatial upscaler", "hires"],
            category=CATEGORY,
            description="Loads a latent upscaler, which enlarges the video latent between two stages.",
            inputs=[
                combo("upscaler", file_lists.UPSCALERS, "Latent upscaler in models/latent_upscale_models.")
            ],
            outputs=[
                io.LatentUpscaleModel.Output(
                    display_name="upscale_model", tooltip="For LTX-2 Latent Upscale."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, upscaler: str | None = None) -> bool:
        return file_lists.check((file_lists.UPSCALERS, upscaler))

    @classmethod
    def execute(cls, upscaler: str) -> io.NodeOutput:
        return io.NodeOutput(load_upscaler(file_lists.UPSCALERS.path(upscaler)))


class LTX2AVLoadAll(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVLoadAll",
            display_name="LTX-2 Load All",
            search_aliases=["load model", "checkpoint", "loader", "all in one", "model files"],
            category=CATEGORY,
            description="Loads everything that a graph needs: model, text encoder, both VAEs and an "
            "upscaler.",
            inputs=[
                model_input(),
                text_encoder_input(),
                combo(
                    "upscaler",
                    file_lists.UPSCALERS,
                    "Latent upscaler for the second stage, or none for graphs of one stage.",
                    NONE,
                ),
                *part_inputs(),
                network_input(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The transformer, for sampling."),
                io.Clip.Output(display_name="clip", tooltip="Text encoder for LTX-2 Prompt."),
                io.Vae.Output(display_name="video_vae", tooltip="Encodes and decodes video frames."),
                io.Vae.Output(display_name="audio_vae", tooltip="Encodes and decodes audio."),
                io.LatentUpscaleModel.Output(
                    display_name="upscale_model", tooltip="For LTX-2 Latent Upscale."
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        ckpt_name: str | None = None,
        text_encoder: str | None = None,
        upscaler: str | None = None,
        video_vae: str | None = None,
        audio_vae: str | None = None,
        text_parts: str | None = None,
    ) -> bool:
        _check_parts(ckpt_name, video_vae, audio_vae, text_parts)
        return file_lists.check((file_lists.ENCODERS, text_encoder), (file_lists.UPSCALERS, upscaler))

    @classmethod
    def execute(
        cls,
        ckpt_name: str,
        text_encoder: str,
        upscaler: str,
        video_vae: str = SAME,
        audio_vae: str = SAME,
        text_parts: str = SAME,
        network: str = OURS,
    ) -> io.NodeOutput:
        paths = _model_paths(ckpt_name, text_parts)
        _check_generations(paths, video_vae, audio_vae)
        clip = load_clip(file_lists.ENCODERS.path(text_encoder), *paths)
        upscale_model = None if upscaler == NONE else load_upscaler(file_lists.UPSCALERS.path(upscaler))
        vaes = _vaes(ckpt_name, video_vae, audio_vae)
        return io.NodeOutput(NETWORKS[network](*paths), clip, *vaes, upscale_model)


def _model_paths(ckpt_name: str, text_parts: str) -> list[Path]:
    """The files from which the model is read; the first one that holds a component is used for it.

    They are the file chosen in ``text_parts``, unless that says "in ckpt_name", then the checkpoint.
    """
    extra = [] if text_parts == SAME else [file_lists.TEXT_PARTS.path(text_parts)]
    # The first file that holds a component is the one that it is read from.
    return [*extra, file_lists.MODELS.path(ckpt_name)]


def _check_generations(paths: list[Path], video_vae: str, audio_vae: str) -> None:
    """Raise ValueError, naming both files, if two of the chosen files are of different generations of LTX-2.

    ``paths`` are those of the model; ``video_vae`` and ``audio_vae`` are the values of these widgets.
    """
    chosen = ((file_lists.VIDEO_VAES, video_vae), (file_lists.AUDIO_VAES, audio_vae))
    vaes = [files.path(name) for files, name in chosen if name not in (SAME, NONE)]
    # The checkpoint comes first, so that the others are compared with it.
    check_generations(open_checkpoint(path) for path in (*reversed(paths), *vaes))


def _vaes(ckpt_name: str, video_vae: str, audio_vae: str) -> tuple[Vae | None, Vae | None]:
    """Load the video VAE and the audio VAE that the widgets name; None for one that is set to "none"."""
    return (
        _vae("video_vae", file_lists.VIDEO_VAES, ckpt_name, video_vae, load_video_vae),
        _vae("audio_vae", file_lists.AUDIO_VAES, ckpt_name, audio_vae, load_audio_vae),
    )


def _vae(name: str, files: FileList, ckpt_name: str, choice: str, load: Callable[[Path], Vae]) -> Vae | None:
    """Load the VAE that was chosen in the input ``name`` by ``load``; None if ``choice`` is "none".

    ``choice`` is a name in ``files``, or "in ckpt_name" for the VAE in the checkpoint; ValueError if that has
    none. A checkpoint of LTX-Video has no audio VAE, for which the result is None, too.
    """
    if choice == NONE:
        return None
    if choice != SAME:
        return load(files.path(choice))
    path = file_lists.MODELS.path(ckpt_name)
    if files is file_lists.AUDIO_VAES and is_ltx_video([open_checkpoint(path)]):
        # This family has no audio.
        return None
    if problem := files.problem(path):
        raise ValueError(
            f"{problem}. Choose a file in {name} ({files.download}), or {NONE} where it is not used"
        )
    return load(path)


def _check_parts(
    ckpt_name: str | None, video_vae: str | None, audio_vae: str | None, text_parts: str | None
) -> bool:
    return file_lists.check(
        (file_lists.MODELS, ckpt_name),
        (file_lists.VIDEO_VAES, video_vae),
        (file_lists.AUDIO_VAES, audio_vae),
        (file_lists.TEXT_PARTS, text_parts),
    )
