"""Converts the guidance options of the command line to fields of a request."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from ..config import transformer_config
from ..loading import Component
from ..run.options import by_name
from ..run.pipeline import LTX2Pipeline
from ..run.recipe_guidance import streams_of
from ..run.recipes import Recipe, of_kind
from ..sampling.guidance import Guidance, Nag, stg_blocks_of
from ..sampling.presets import LTXV, PRESETS, Preset

SCALES = ("cfg", "stg", "modality", "rescale", "skip_steps")
SHARED = ("cfg_star", "apg_eta", "apg_threshold")
RANGE = ("from_sigma", "to_sigma")


class GuidanceFields(TypedDict, total=False):
    """The fields of a :class:`Request` that guidance options of the command line can set, as keywords."""

    sampler: str
    eta: float | None
    steps: int
    sigmas: list[float]
    stage2_sampler: str
    stage2_sigmas: list[float]
    cfg: float
    audio_cfg: float
    guidance: Guidance
    nag: Nag


class StreamScales(TypedDict, total=False):
    """The fields of :class:`StreamGuidance` that options can set for one stream, video or audio."""

    cfg: float
    stg: float
    modality: float
    rescale: float
    skip_steps: int
    cfg_star: bool
    apg_eta: float
    apg_threshold: float


class SigmaRange(TypedDict, total=False):
    """The noise levels, in [0, 1], at which guidance is on: at most ``from_sigma``, at least ``to_sigma``.

    A key that is missing is no bound.
    """

    from_sigma: float
    to_sigma: float


@dataclass(frozen=True, kw_only=True)
class GuidanceOptions:
    """The guidance options that the user wrote: for the video, for the audio, and ``shared`` by both.

    For options that the user did not write, fields are None and keys of dicts are missing.
    """

    preset: Preset | None
    video: StreamScales
    audio: StreamScales
    shared: StreamScales
    """Scales that apply to video and audio alike."""
    sigma_range: SigmaRange
    stg_blocks: str | None
    nag: Nag | None

    @classmethod
    def taken(cls, explicit: MutableMapping[str, Any]) -> GuidanceOptions:
        """Remove the guidance options from ``explicit``, the options that the user wrote, and return them."""

        # click has checked the types of the values.
        def taken(names: tuple[str, ...], prefix: str = "") -> Any:
            return {name: explicit.pop(prefix + name) for name in names if prefix + name in explicit}

        preset, nag = explicit.pop("preset", None), taken(("alpha", "tau"), "nag_")
        scale = explicit.pop("nag", None)
        return cls(
            preset=None if preset is None else PRESETS[preset],
            video=taken(SCALES),
            audio=taken(SCALES, "audio_"),
            shared=taken(SHARED),
            sigma_range=taken(RANGE),
            stg_blocks=explicit.pop("stg_blocks", None),
            nag=None if scale is None else Nag(scale=scale, **nag),
        )

    @property
    def only_cfg(self) -> bool:
        """Whether the user wrote no guidance options other than ``--cfg`` and ``--audio-cfg``."""
        others = self.preset is not None or self.shared or self.sigma_range or self.stg_blocks is not None
        return not others and {*self.video, *self.audio} <= {"cfg"}

    def guidance(self, recipe: Recipe, blocks: tuple[int, ...]) -> Guidance:
        """Make the guidance of video and audio from these options.

        Scales that the user did not write are those of the preset. Without a preset they are those of
        ``recipe``, except that a scale which was written for the video and not for the audio applies to both.
        ``blocks`` are the numbers, from 0, of the transformer blocks that spatio-temporal guidance (stg)
        perturbs.
        """
        if self.preset is None:
            # Without a preset the audio follows the scales that are written for the video.
            video, audio = (replace(scales, **self.video) for scales in streams_of(recipe))
        else:
            video, audio = replace(self.preset.video, **self.video), self.preset.audio
        video, audio = replace(video, **self.shared), replace(replace(audio, **self.audio), **self.shared)
        stg = video.stg or audio.stg
        return Guidance(video=video, audio=audio, stg_blocks=blocks if stg else (), **self.sigma_range)

    def check_effect(self, guidance: Guidance) -> None:
        """Raise ValueError if an option modifies a kind of guidance that ``guidance`` does not have."""
        video, audio = guidance.video, guidance.audio
        if self.stg_blocks is not None and not (video.stg or audio.stg):
            raise ValueError("--stg-blocks has no effect without --stg: add it")
        cfg = video.cfg != 1 or audio.cfg != 1
        if "cfg_star" in self.shared and not cfg:
            raise ValueError("--cfg-star has no effect without --cfg above 1: add it")
        names = [name for name in (*self.shared, *self.sigma_range) if name != "cfg_star"]
        if names and len(guidance.passes()) == 1:
            raise ValueError(f"{by_name(names[0]).flag} has no effect without guidance: add --cfg above 1")


def guidance_fields(explicit: MutableMapping[str, Any], pipeline: LTX2Pipeline) -> GuidanceFields:
    """Remove the guidance options from ``explicit`` and return them as keywords of :class:`Request`.

    ``explicit`` are the options that the user wrote, by name. Raises ValueError for values out of range, and
    for ``--steps`` with a preset whose schedule is fixed.
    """
    options = GuidanceOptions.taken(explicit)
    fields: GuidanceFields = {} if options.preset is None else _preset_fields(options.preset, explicit)
    fields.update(_stage2_fields(explicit))
    # Read even if no scale needs them, so that a mistake in --stg-blocks is an error.
    blocks = _blocks(options.stg_blocks, pipeline)
    # Scales of cfg alone are fields of the request, so the recipe still chooses the rest.
    if options.only_cfg:
        if "cfg" in options.video:
            fields["cfg"] = options.video["cfg"]
        if "cfg" in options.audio:
            fields["audio_cfg"] = options.audio["cfg"]
    else:
        recipe = of_kind(pipeline.recipe, distilled=bool(explicit.get("distilled")))
        fields["guidance"] = options.guidance(recipe, blocks)
    if options.stg_blocks is not None or options.shared or options.sigma_range:
        options.check_effect(fields["guidance"])
    if options.nag is not None:
        fields["nag"] = options.nag
    return fields


def _preset_fields(preset: Preset, explicit: Mapping[str, Any]) -> GuidanceFields:
    """The sampler, eta and steps or sigmas of a preset, without those for which the user wrote an option.

    ``explicit`` are the options that the user wrote, by name. Raises ValueError for ``--steps`` with a preset
    of fixed sigmas.
    """
    fields: GuidanceFields = {}
    if "sampler" not in explicit:
        fields["sampler"] = preset.sampler
    if "eta" not in explicit:
        fields["eta"] = preset.eta
    if preset.schedule != LTXV:
        if "steps" in explicit:
            raise ValueError(
                f"--steps and --preset contradict each other, as this preset has {preset.steps} fixed steps: "
                "leave one out"
            )
        if "sigmas" not in explicit:
            fields["sigmas"] = preset.sigmas().tolist()
    # The number of sigmas is the number of steps.
    elif not {"steps", "sigmas"} & explicit.keys():
        fields["steps"] = preset.steps
    return fields


def _stage2_fields(explicit: MutableMapping[str, Any]) -> GuidanceFields:
    """Remove ``--stage2-preset`` from ``explicit``, and return that preset's sampler and noise levels.

    They are the fields ``stage2_sampler`` and ``stage2_sigmas`` of a request. The sampler is left out if
    ``--stage2-sampler`` was written, the noise levels if ``--stage2-sigmas`` was. ``explicit`` are the
    options that the user wrote, by name. Returns {} without ``--stage2-preset``.
    """
    fields: GuidanceFields = {}
    name = explicit.pop("stage2_preset", None)
    if name is None:
        return fields
    if "stage2_sampler" not in explicit:
        fields["stage2_sampler"] = PRESETS[name].sampler
    if "stage2_sigmas" not in explicit:
        fields["stage2_sigmas"] = PRESETS[name].sigmas().tolist()
    return fields


def _blocks(text: str | None, pipeline: LTX2Pipeline) -> tuple[int, ...]:
    """The transformer block numbers, from 0, in the text of ``--stg-blocks``.

    None as ``text`` gives the blocks that are recommended for the checkpoint of ``pipeline``. Raises
    ValueError for text that is no list of block numbers.
    """
    if text is None:
        file = pipeline.networks.file(Component.TRANSFORMER)
        return stg_blocks_of(transformer_config(file.config).num_layers, str(file.generation))
    try:
        return tuple(int(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise ValueError(f"--stg-blocks {text!r} must be block numbers between commas, such as 28") from None
