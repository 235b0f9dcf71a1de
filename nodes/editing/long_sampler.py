"""Samples the windows of a long clip with a MODEL of ComfyUI.

Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ...ltx2_core.conditioning.guide_frames import GuideFrames
from ...ltx2_core.conditioning.items import InputVideo
from ...ltx2_core.editing.conditioning import Keyframe
from ...ltx2_core.editing.long_clip import LongPlan, SampleWindow, WindowRun
from ...ltx2_core.editing.long_options import LongVideo
from ...ltx2_core.media import fit_image
from ...ltx2_core.shapes import ClipPlan
from ...ltx2_core.types import AVLatent
from ..clip.plan import empty_latent
from ..clip.prompt import encode_prompt
from ..conditioning.attached import AttachedGuide, AttachedImage
from ..conditioning.guide_latents import add_guide, attach_guide, crop_guides
from ..conditioning.images import chosen_crf, place_image
from ..convert import frames_from_image, image_from_frames, split
from ..host.latents import Latent
from ..host.progress import part_of_job
from ..host.values import Clip, Conditioning, Model
from ..inputs import BY_MODEL
from ..sampling.runs import Run
from ..sampling.two_stage import applied
from .codecs import HostCodecs


@dataclass(frozen=True, kw_only=True, eq=False)
class HostSampler:
    """Builds the function that samples the windows (overlapping runs) of a long clip with a MODEL of ComfyUI.

    ``codecs`` encode images and sources with VAEs. ``plan_run`` chooses schedule and guidance for a LATENT;
    it is called for the first window, and all windows use what it returns. ``negative`` is the negative
    prompt, ``image`` the IMAGE that the clip starts with, None without one. ``reference_step`` is the n of an
    IC-LoRA that uses every n-th frame of its reference.
    """

    model: Model
    text_encoder: Clip
    codecs: HostCodecs
    plan_run: Callable[[Latent], Run]
    negative: str
    image: Tensor | None
    reference_step: int

    def __call__(self, plan: LongPlan, prompts: tuple[str, ...]) -> SampleWindow:
        # A shorter last window would get another schedule, and so another look, if it had its own.
        run = self.plan_run(self._empty(plan.windows[0].clip))
        # Without prompts all windows are finished, and the text encoder need not be loaded.
        texts = (*prompts, self.negative) if prompts else ()
        encoded = {text: encode_prompt(self.text_encoder, text, plan.clip.fps) for text in texts}

        def sample_window(window: WindowRun) -> AVLatent:
            with part_of_job(f"window {window.window.index + 1} of {len(plan.windows)}"):
                return self.sample(window, plan.how, run, encoded)

        return sample_window

    def sample(
        self, window: WindowRun, how: LongVideo, run: Run, encoded: Mapping[str, Conditioning]
    ) -> AVLatent:
        """Sample one window with the schedule and guidance of ``run``; returns its latents, without guides.

        ``how`` has the settings of the long clip, ``encoded`` the CONDITIONING of each prompt by its text.
        """
        positive, negative, latent = encoded[window.prompt], encoded[self.negative], self._start(window, how)
        for guide in window.conditioning:
            if isinstance(guide, GuideFrames):
                # The host has one strength for how clean a guide is and how much the video attends to it.
                coupled = replace(guide, attention=guide.strength)
                positive, negative, latent = attach_guide(positive, negative, latent, coupled)
        if window.source is not None and how.source_strength > 0:
            vae, reference = self.codecs.video_vae, self._reference(window.source, how)
            positive, negative, latent, _ = add_guide(positive, negative, vae, latent, reference)
        sampled = run(self.model, positive, negative, latent, seed=window.seed)
        video, audio = split(crop_guides(positive, negative, sampled)[2])
        assert video is not None
        return AVLatent(video["samples"], None if audio is None else audio["samples"])

    def _empty(self, clip: ClipPlan) -> Latent:
        """An empty LATENT of the size and length of ``clip``, with audio if the model has any."""
        return empty_latent(clip, 1, with_audio=self.codecs.has_audio)

    def _start(self, window: WindowRun, how: LongVideo) -> Latent:
        """The LATENT from which a window is sampled, with all its conditioning except guides.

        ``how`` has the settings of the long clip.
        """
        clip, latent = window.window.clip, self._empty(window.window.clip)
        if window.source is not None and how.denoise < 1:
            frames = fit_image(window.source, clip.width, clip.height, mode="comfy")
            encoded = self.codecs.encode_video(frames)
            # Strength 0 makes the mask 1: the source is where sampling starts from, at the noise of a
            # shortened schedule, and no part of it is preserved.
            latent = applied(latent, InputVideo(latent=encoded, strength=0.0))
        if self.image is not None and window.window.index == 0:
            crf, _ = chosen_crf(self.codecs.video_vae, BY_MODEL, len(self.image))
            latent = place_image(self.codecs.video_vae, latent, AttachedImage(self.image, 1.0, crf))
        for item in window.conditioning:
            if not isinstance(item, GuideFrames):
                latent = applied(latent, item)
        return latent

    def _reference(self, source: Tensor, how: LongVideo) -> AttachedGuide:
        """Turn a window's source frames (frames, 3, height, width) in [0, 1] into a reference for an IC-LoRA.

        ``how``, the settings of the long clip, says how strongly the reference counts, and how many times
        smaller than the clip it is encoded.
        """
        return AttachedGuide(
            image=image_from_frames(source),
            frame=0,
            strength=how.source_strength,
            attention=how.source_strength,
            mask=None,
            downscale=how.source_scale or 1,
            every=self.reference_step,
        )


def keyframes_of(images: Tensor | None, frames: str, strength: float, clip: ClipPlan) -> list[Keyframe]:
    """One keyframe for each image of an IMAGE, at the frame numbers in ``frames``, such as "0, 48, -1".

    The images are fitted to the size of ``clip``, and all have the same ``strength``. Returns none if
    ``images`` is None. Raises ValueError for text of another form, and unless it has one frame number within
    the clip for each image.
    """
    if images is None:
        return []
    try:
        numbers = [int(word) for word in frames.replace(",", " ").split()]
    except ValueError:
        raise ValueError(f"keyframe_frames {frames!r} must be frame numbers, such as 0, 48, -1") from None
    # Negative numbers count from the end, as for guides.
    outside = [number for number in numbers if not -clip.frames <= number < clip.frames]
    if outside or len(numbers) != len(images):
        raise ValueError(
            f"keyframe_frames {frames!r} must be one number from {-clip.frames} to {clip.frames - 1} for "
            f"each of the {len(images)} keyframes"
        )
    fitted = fit_image(frames_from_image(images), clip.width, clip.height, mode="comfy")
    return [
        Keyframe(frames=fitted[i : i + 1], frame=number, strength=strength)
        for i, number in enumerate(numbers)
    ]
