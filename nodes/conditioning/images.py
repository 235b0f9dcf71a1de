"""Nodes for conditioning that replaces a part of the latent: a first image or clip, and input audio."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.audio import with_noise_floor
from ...ltx2_core.shapes import AUDIO_LATENTS_PER_SECOND, latent_frames_of
from ..convert import Streams, clip_audio, compress, encoder_audio, image_at_stage, split, split_av, video_of
from ..host.audio_vae import audio_rate_of, encode_audio
from ..host.latents import Latent, concat_av
from ..host.masks import frame_mask
from ..host.recipe import recipe_of_vae
from ..host.values import Audio, Vae
from ..host.video_vae import checked_video_vae
from ..inputs import BY_MODEL, image_crf_input, start_input
from ..quantity import quantity
from .attached import AttachedImage, remember

CATEGORY = "LTX-2/conditioning"


class LTX2AVPreprocess(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVPreprocess",
            display_name="LTX-2 Preprocess Image",
            search_aliases=[
                "compress image",
                "crf",
                "still image",
                "frozen video",
                "no motion",
                "image compression",
            ],
            category=CATEGORY,
            description="Makes still images look like video frames by compressing them once with H.264: the "
            "model tends to leave images without compression artefacts frozen.",
            inputs=[
                io.Image.Input("image", tooltip="Images to compress, each as a video of one frame."),
                image_crf_input("Without video_vae it is 33."),
                io.Vae.Input("video_vae", optional=True, tooltip="Video VAE of the model, for crf -1."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The compressed images, cropped to even sizes."
                ),
                io.String.Output(display_name="report", tooltip="The compression that was used."),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, crf: int, video_vae: Vae | None = None) -> io.NodeOutput:
        crf, report = chosen_crf(video_vae, crf, 1)
        return io.NodeOutput(compress(image, crf), report, ui=ui.PreviewText(report))


class LTX2AVImgToVideoInplace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVImgToVideoInplace",
            display_name="LTX-2 Img To Video Inplace",
            search_aliases=[
                "image to video",
                "i2v",
                "first frame",
                "start image",
                "start frame",
                "animate image",
                "photo",
                "ti2v",
                "reference image",
            ],
            category=CATEGORY,
            description="Replaces the first frames of the latent by an image or by a clip of 8k + 1 frames. "
            "In a two-stage graph use it before both stages: after the upscaler, not before it.",
            inputs=[
                io.Vae.Input("video_vae", tooltip="Video VAE that encodes the image."),
                io.Image.Input(
                    "image",
                    tooltip="First image or clip; it is cropped around its centre to the clip's aspect "
                    "ratio.",
                ),
                io.Latent.Input("latent", tooltip="Latent of this stage: audio-video, or video only."),
                quantity(
                    "image_strength",
                    1.0,
                    name="strength",
                    low=BY_MODEL,
                    step=0.01,
                    text="How much of the first image is preserved: 1 all of it, 0 nothing",
                    more="Less, such as 0.7, lets the clip move more. -1 is that of the published graphs for "
                    "a first stage: 1 for LTX-2.0, 0.7 from 2.3 on.",
                ),
                image_crf_input("It happens at the size of this stage."),
                quantity(
                    "stage2_image_strength",
                    BY_MODEL,
                    name="next_strength",
                    low=BY_MODEL,
                    step=0.01,
                    optional=True,
                    text="How much of the image LTX-2 Next Stage preserves, which places it again",
                    more="-1 is the same as strength, or all of it (1) where that is -1 too.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The latent with the image and its mask."),
                io.String.Output(
                    display_name="report", tooltip="The compression and the strength that were used."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        video_vae: Vae,
        image: Tensor,
        latent: Latent,
        strength: float,
        crf: int,
        next_strength: float = BY_MODEL,
    ) -> io.NodeOutput:
        crf, report = chosen_crf(video_vae, crf, len(image))
        chosen, following, reason = chosen_strengths(video_vae, strength, next_strength)
        placed = place_image(video_vae, latent, AttachedImage(image, chosen, crf, following))
        report = "\n".join(filter(None, (report, reason)))
        return io.NodeOutput(placed, report, ui=ui.PreviewText(report))


class LTX2AVSetAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVSetAudio",
            has_intermediate_output=True,
            display_name="LTX-2 Set Audio",
            search_aliases=[
                "audio to video",
                "a2v",
                "lipsync",
                "lip sync",
                "talking",
                "talking head",
                "speech",
                "music video",
                "singing",
                "own audio",
                "dub",
                "avatar",
                "talking avatar",
                "dialogue",
                "song",
                "add audio",
            ],
            category=CATEGORY,
            description="Sets the audio of the clip: the video is generated to match it, and the audio "
            "itself is preserved in this and every later stage.",
            inputs=[
                io.Vae.Input("audio_vae", tooltip="Audio VAE that encodes the audio."),
                io.Audio.Input(
                    "audio", tooltip="The audio. Longer than the clip: it is cut. Shorter: silence follows."
                ),
                io.Latent.Input("latent", tooltip="Audio-video latent of the first stage."),
                start_input("A later start skips more of it."),
                quantity(
                    "audio_noise_db",
                    0.0,
                    name="noise_floor",
                    low=-120.0,
                    step=1.0,
                    optional=True,
                    more="In dB of full scale, such as -60. 0 is off.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="The latent with the audio in it, masked as preserved."
                ),
                io.Audio.Output(
                    display_name="audio", tooltip="The audio cut to the clip, for LTX-2 Decode To Video."
                ),
                io.String.Output(display_name="report", tooltip="What was cut or added."),
            ],
        )

    @classmethod
    def execute(
        cls, audio_vae: Vae, audio: Audio | None, latent: Latent, start: float, noise_floor: float = 0.0
    ) -> io.NodeOutput:
        video, own = split_av(latent)
        latents = own["samples"].shape[2]
        waveform, rate, silence_s = clip_audio(audio, start, latents)
        conditioning = with_noise_floor(waveform, noise_floor) if noise_floor else waveform
        # The noise floor is only for the model: the audio output stays without it.
        target = audio_rate_of(audio_vae)
        encoded = encode_audio(audio_vae, encoder_audio(conditioning, rate, target, latents), target)
        # One audio serves all clips of a batch.
        samples = encoded.to(own["samples"]).expand_as(own["samples"]).clone()
        frozen = {**own, "samples": samples, "noise_mask": torch.zeros_like(samples)}
        report = f"audio of {latents / AUDIO_LATENTS_PER_SECOND:.2f} s from {start:g} s on"
        if silence_s:
            report += f"; it is too short for the clip: {silence_s:.2f} s of silence added at the end"
        cut: Audio = {"waveform": waveform, "sample_rate": rate}
        return io.NodeOutput(concat_av(video, frozen), cut, report, ui=ui.PreviewText(report))


def chosen_crf(video_vae: Vae | None, crf: int, frames: int) -> tuple[int, str]:
    """Return the compression that a widget's ``crf`` stands for, and a line that says where it comes from.

    -1 stands for what the model was trained with, which ``video_vae`` tells (None: the oldest model).
    ``frames`` is the number of frames to compress: with -1 a clip of several is not compressed.
    """
    if crf != BY_MODEL:
        return crf, f"image compressed with crf {crf}" if crf else "image not compressed"
    # Models were trained with stills that were compressed and with clips as they are.
    if frames > 1:
        return 0, f"clip of {frames} frames not compressed"
    recipe = recipe_of_vae(video_vae)
    return recipe.image_crf, f"image compressed with crf {recipe.image_crf}, {recipe.reason}"


def chosen_strengths(video_vae: Vae, strength: float, following: float) -> tuple[float, float, str]:
    """Return the strengths of an image in this stage and the next one, and a line for the report.

    ``strength`` and ``following`` are the values of the widgets. A ``strength`` of -1 stands for that of the
    published graphs for the model of ``video_vae``, and ``following`` of -1 for the same strength, or for all
    of the image (1) in the former case. The line is empty if the widgets decide both. Raises ValueError for
    strengths between -1 and 0.
    """
    for name, value in (("strength", strength), ("next_strength", following)):
        if value != BY_MODEL and not 0 <= value <= 1:
            raise ValueError(f"{name}={value:g} must be from 0 to 1, or -1")
    if strength != BY_MODEL:
        return strength, strength if following == BY_MODEL else following, ""
    recipe = recipe_of_vae(video_vae)
    following = recipe.stage2_image_strength if following == BY_MODEL else following
    line = f"strength {recipe.node_image_strength:g}, {following:g} in the next stage, {recipe.reason}"
    return recipe.node_image_strength, following, line


def place_image(video_vae: Vae, latent: Latent, attached: AttachedImage) -> Latent:
    """Encode an image or clip as the first frames of a LATENT, and record in the LATENT that it was used.

    By this record the next sampling stage, at a larger size, encodes the image or clip again. Raises
    ValueError if ``attached`` has more frames than the clip.
    """
    video = video_of(latent)
    frames = latent_frames_of(len(attached.image))
    if frames > video["samples"].shape[2]:
        raise ValueError(
            f"{len(attached.image)} images are {frames} latent frames and the clip has only "
            f"{video['samples'].shape[2]}: use fewer images or plan a longer clip"
        )
    # At the size of this stage, as ComfyUI does: an upscaled latent of the image would be less exact.
    encoded = checked_video_vae(video_vae).encode(image_at_stage(attached.image, video, attached.crf))
    joined = Streams(put_in_place(video, encoded, attached.strength), split(latent).audio).joined()
    return remember(joined, attached)


def put_in_place(video: Latent, encoded: Tensor, strength: float) -> Latent:
    """Replace the first latent frames of a video LATENT by ``encoded`` (1 or B, C, latent frames, H, W).

    The noise mask of these latent frames becomes 1 - ``strength``.
    """
    # A clone, since other branches of the graph hold the same samples.
    samples, mask, frames = video["samples"].clone(), frame_mask(video), encoded.shape[2]
    samples[:, :, :frames] = encoded
    mask[:, :, :frames] = 1.0 - strength
    return {**video, "samples": samples, "noise_mask": mask}
