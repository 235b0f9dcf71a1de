"""A node that makes conditioning and latent of a shot list, the file that ``ltx2 generate --shots`` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import folder_paths
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.conditioning.guide_frames import GuideFrames
from ...ltx2_core.conditioning.guides import place_guide
from ...ltx2_core.conditioning.inputs import ImageAt, Inputs
from ...ltx2_core.conditioning.regions import Rounding, audio_cells
from ...ltx2_core.editing.edit import planned_size
from ...ltx2_core.editing.retake import Retake
from ...ltx2_core.editing.shots import retake_of
from ...ltx2_core.media import load_image
from ...ltx2_core.run.flat_options import RequestOptions
from ...ltx2_core.run.inputs import read_input_audio
from ...ltx2_core.run.recipes import Recipe
from ...ltx2_core.run.request import Request
from ...ltx2_core.run.shots import Shots, mapped, parse_shots
from ...ltx2_core.run.shots.mapping import checked_name, clip_fields
from ...ltx2_core.run.stages import Stage, plan_stages
from ...ltx2_core.types import Numerics
from ..clip.plan import describe, empty_latent
from ..clip.prompt import encode_prompt
from ..clip.prompt_by_time import encode_parts
from ..convert import compress, image_at_stage, image_from_frames, split_av, video_of
from ..editing.codecs import HostCodecs
from ..editing.inputs import EditType
from ..host.guides import guide_frames_of
from ..host.latents import Latent, concat_av
from ..host.recipe import recipe_of_vae
from ..host.values import Clip, Conditioning, Vae
from ..host.video_vae import checked_video_vae
from ..inputs import BY_MODEL, Plan, text_encoder_input
from ..sampling.two_stage import placed
from .attached import AttachedGuide, AttachedImage, remember
from .guide_latents import attach_guide
from .images import CATEGORY, chosen_crf, place_image

EXAMPLE = """{
  "format": "ltx2.shots/1",
  "clip": {"width": 768, "height": 512, "fps": 24, "seconds": 4, "seed": 0},
  "prompt": "",
  "parts": [
    {"from": 0, "prompt": ""},
    {"from": 2, "prompt": ""}
  ],
  "images": [],
  "audio": []
}"""

Texts = tuple[Conditioning, Conditioning]


class LTX2AVShotList(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVShotList",
            has_intermediate_output=True,
            display_name="LTX-2 Shot List",
            search_aliases=[
                "timeline",
                "director",
                "storyboard",
                "several shots",
                "keyframes",
                "script",
                "json",
            ],
            category=CATEGORY,
            description="Prompts by time, images at times and audio pieces from one JSON text, which ltx2 "
            "generate --shots reads too. In place of LTX-2 Clip Plan and LTX-2 Prompt, for one stage.",
            inputs=[
                text_encoder_input(),
                io.Vae.Input("video_vae", tooltip="Video VAE that encodes the images."),
                io.String.Input(
                    "shots",
                    multiline=True,
                    default=EXAMPLE,
                    tooltip="The shot list. Files are names in ComfyUI's input folder.",
                ),
                io.Vae.Input("audio_vae", optional=True, tooltip="Audio VAE, if the list has audio."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the sampler's positive."),
                io.Conditioning.Output(display_name="negative", tooltip="For the sampler's negative."),
                io.Latent.Output(display_name="latent", tooltip="For LTX-2 Sample Stage."),
                Plan.Output(display_name="plan", tooltip="Size, length and fps of the clip."),
                io.Int.Output(display_name="seed", tooltip="The seed of the list, for LTX-2 Sample Stage."),
                io.String.Output(display_name="report", tooltip="The clip, and times that were rounded."),
                EditType.Output(display_name="edit", tooltip="For LTX-2 Finish Edit."),
            ],
        )

    @classmethod
    def execute(cls, clip: Clip, video_vae: Vae, shots: str, audio_vae: Vae | None = None) -> io.NodeOutput:
        listed = parse_shots(shots)
        _check(listed)
        run = planned(listed, video_vae)
        request, stage, codecs = run.request, run.stage, HostCodecs(video_vae, audio_vae)
        texts = encode_texts(clip, request, stage)
        latent = empty_latent(stage.clip, 1)
        if request.inputs.image.source is not None:
            latent = _with_first_image(video_vae, latent, request.inputs, stage)
        if request.inputs.audio.source is not None:
            latent = _with_audio(codecs, latent, request, stage)
        # Before guides are appended, since the source has the length of the clip.
        for item in () if run.edit is None else run.edit.conditioning(codecs):
            latent = placed(codecs, latent, item)
        for image in request.inputs.images:
            texts, latent = _with_keyframe(video_vae, texts, latent, image)
        report = "\n".join((describe(stage.clip, stage.clip), *run.lines()))
        seed = request.sampling.seed or 0
        return io.NodeOutput(*texts, latent, stage.clip, seed, report, run.edit, ui=ui.PreviewText(report))


@dataclass(frozen=True)
class Planned:
    """What a shot list asks for: a request, its only stage, and what was rounded.

    ``edit`` is the retake of a list that names a source, else None.
    """

    request: Request
    stage: Stage
    notes: tuple[str, ...]
    edit: Retake | None = None

    def lines(self) -> tuple[str, ...]:
        """Lines for the report."""
        if self.edit is None:
            return tuple(f"rounded: {note}" for note in self.notes)
        return (self.edit.describe(), *self.notes)


def planned(shots: Shots, video_vae: Vae) -> Planned:
    """Plan the run of a shot list; the recipe is that of ``video_vae``.

    Raises ValueError for sizes, times and files that are wrong.
    """
    recipe = recipe_of_vae(video_vae)
    if shots.source is not None:
        return _planned_retake(shots, recipe)
    # The seed is read here and the noise drawn by the sampler, so that any number will do where none is.
    size = cast(RequestOptions, {**clip_fields(shots.clip), "stages": 1})
    plain = Request(prompt="", **size).with_recipe(recipe)[0]
    clip = plan_stages(plain, Numerics.COMFY, recipe)[0].clip
    made = mapped(shots, clip, input_file)
    fields = cast(RequestOptions, {**made.fields, "stages": 1})
    request = Request(prompt=made.prompt, **fields).with_recipe(recipe)[0]
    return Planned(request, plan_stages(request, Numerics.COMFY, recipe)[0], made.notes)


def _planned_retake(shots: Shots, recipe: Recipe) -> Planned:
    listed = retake_of(shots, input_file, {"stages": 1}, numerics=Numerics.COMFY)
    edit = listed.plan(Numerics.COMFY)
    fields: RequestOptions = {**listed.fields, **planned_size(edit, listed.fields)}
    request = Request(prompt=listed.prompt, **fields).with_recipe(recipe)[0]
    return Planned(request, plan_stages(request, Numerics.COMFY, recipe)[0], listed.notes, edit)


def encode_texts(clip: Clip, request: Request, stage: Stage) -> Texts:
    """Encode the prompts of ``request`` and its negative prompt."""
    text, fps = request.text, stage.clip.fps
    if text.at is None:
        return encode_prompt(clip, text.prompt, fps), encode_prompt(clip, text.negative or "", fps)
    positive = encode_parts(clip, text, stage.clip.seconds, fps)
    return positive, encode_prompt(clip, text.negative or "", fps)


def input_file(name: str) -> str:
    """The path of a file in ComfyUI's input folder.

    Raises ValueError for a name that leads out of the folder, FileNotFoundError if there is no such file.
    """
    folder = Path(folder_paths.get_input_directory()).resolve()
    # Resolved, so that neither "..", an absolute path nor a link leads out of the folder.
    path = (folder / checked_name(name)).resolve()
    if not path.is_relative_to(folder):
        raise ValueError(f"{name!r:.80} is outside of ComfyUI's input folder: put the file there")
    if not path.is_file():
        raise FileNotFoundError(f"{name!r:.80} is not in ComfyUI's input folder: upload it, or mend its name")
    return str(path)


def _check(shots: Shots) -> None:
    """Raise ValueError for what other nodes do in a graph."""
    for present, what in (
        (shots.loras, "loras: load them by LTX-2 Load LoRA"),
        (shots.control, "control: connect control videos by LTX-2 Add Guide"),
        (shots.voice, "voice: connect it by LTX-2 Reference Audio"),
        (shots.clip.stages == 2, "two stages: set stages of clip to 1"),
    ):
        if present:
            raise ValueError(f"LTX-2 Shot List does not do {what}, and leave it out of the list")


def _with_first_image(video_vae: Vae, latent: Latent, inputs: Inputs, stage: Stage) -> Latent:
    image = image_from_frames(load_image(cast(str, inputs.image.source)))
    crf, _ = chosen_crf(video_vae, BY_MODEL if inputs.image.crf is None else inputs.image.crf, 1)
    return place_image(video_vae, latent, AttachedImage(image, stage.image_strength, crf))


def _with_keyframe(video_vae: Vae, texts: Texts, latent: Latent, image: ImageAt) -> tuple[Texts, Latent]:
    """Append an image as a guide at its frame, encoded as the library encodes it."""
    pixels: Tensor = image_from_frames(load_image(cast(str, image.source)))
    crf, _ = chosen_crf(video_vae, BY_MODEL if image.crf is None else image.crf, 1)
    video = video_of(latent)
    where = place_guide(
        1, image.frame, video["samples"].shape[2] - guide_frames_of(texts[0], video["samples"])
    )
    item = GuideFrames(
        latent=checked_video_vae(video_vae).encode(image_at_stage(pixels, video, crf)),
        frame=where.frame,
        strength=image.strength,
        single_frame=True,
    )
    *both, latent = attach_guide(*texts, latent, item)
    guide = AttachedGuide(
        image=compress(pixels, crf),
        frame=image.frame,
        strength=image.strength,
        attention=1.0,
        mask=None,
        downscale=1,
    )
    return (both[0], both[1]), remember(latent, guide)


def _with_audio(codecs: HostCodecs, latent: Latent, request: Request, stage: Stage) -> Latent:
    """Put the audio of ``request`` into the latent, masked as preserved except for its regions."""
    video, own = split_av(latent)
    audio = read_input_audio(request, stage)
    assert audio is not None
    encoded = codecs.encode_audio(*audio, latent_frames=own["samples"].shape[2])
    samples = encoded.to(own["samples"])
    generated = audio_cells(request.inputs.audio.regions, samples.shape[2], Rounding.COVER)
    mask = generated.to(samples).view(1, 1, -1, 1).expand(samples.shape).clone()
    samples = torch.where(mask > 0, own["samples"], samples)
    return concat_av(video, {**own, "samples": samples, "noise_mask": mask})
