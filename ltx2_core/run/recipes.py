"""Default sampling settings of each checkpoint: one recipe for each generation and kind of weights.

No torch is imported here, because the help of the command line contains these values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["dev", "distilled"]
ScheduleName: TypeAlias = Literal["ltxv", "linear_quadratic"]

NEGATIVE_PROMPT: Final = (
    "blurry, low quality, still frame, frames, watermark, overlay, titles, has blurbox, has subtitles"
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The default settings for one checkpoint: the value of every option whose default depends on it.

    ``kind`` is "dev" for full weights or "distilled". ``sigmas`` and ``stage2_sigmas``, the noise levels of
    the two stages, are keys of ``FIXED_SIGMAS``. If ``sigmas`` is None, the first stage uses the LTX-2
    schedule with ``steps`` steps. ``stg``, ``modality`` and ``rescale`` are guidance scales of both streams,
    off by default; ``stg_blocks`` are the numbers of the transformer blocks that stg perturbs, in a network
    of the released depth. ``noise_by_token`` says that samplers draw the noise they add token by token, as
    the official pipelines do, if the numerics are official; otherwise they draw it channel by channel, as
    ComfyUI does. ``stages`` is the default of ``ltx2 generate`` only; in Python the default is one stage.
    ``image_strength`` and ``stage2_image_strength`` are how much of the first image each stage preserves in
    the official pipelines.

    ``schedule`` is that of official numerics: "ltxv" for the LTX-2 schedule, of as many tokens as
    ``schedule_of`` says, or "linear_quadratic". ``first_of_two_sigmas`` replace ``sigmas`` if a second stage
    follows. ``by_step`` is the number of blocks of a network that is guided as ``sampling.ltx_video`` says,
    with other scales in each step; 0 for guidance that does not change. ``stage2_stg_blocks`` are the blocks
    that a perturbed pass of the second stage skips; none without such a pass. ``image_noise`` is how much
    noise official LTX-Video adds to preserved images, times the square of the noise level. With ``adain`` the
    upscaled latent gets the statistics of the first stage, and ``tone_map`` from 0 to 1 compresses the
    latents before they are decoded.

    The graphs that ComfyUI publishes have other values than Lightricks' own code: ``node_stage2_sigmas`` are
    their noise levels of the second stage, a key of ``FIXED_SIGMAS``, ``distilled_lora`` is the strength of a
    distilled LoRA in them, and ``node_image_strength`` how much of the first image their first stage
    preserves; their second stage preserves all of it. The nodes use these.
    """

    name: str
    generation: str
    kind: Kind = "dev"
    sampler: str = "euler"
    eta: float | None = None
    noise_by_token: bool = False
    steps: int = 30
    cfg: float = 4.0
    audio_cfg: float = 4.0
    stg: float = 0.0
    modality: float = 1.0
    rescale: float = 0.0
    stg_blocks: tuple[int, ...] = ()
    sigmas: str | None = None
    schedule: ScheduleName = "ltxv"
    schedule_of: Literal["4096", "clip"] = "4096"
    first_of_two_sigmas: str | None = None
    by_step: int = 0
    stage2_stg_blocks: tuple[int, ...] = ()
    image_noise: float = 0.0
    adain: float = 0.0
    tone_map: float = 0.0
    stage2_sampler: str = "euler"
    stage2_sigmas: str = "distilled_stage2"
    node_stage2_sigmas: str = "distilled_stage2"
    distilled_lora: float = 1.0
    image_strength: float = 1.0
    stage2_image_strength: float = 1.0
    node_image_strength: float = 1.0
    image_crf: int = 33
    width: int = 768
    height: int = 512
    num_frames: int = 121
    fps: float = 24.0
    stages: Literal[1, 2] = 2
    negative_prompt: str = NEGATIVE_PROMPT

    @property
    def guided(self) -> bool:
        """Whether ``stg``, ``modality`` or ``rescale`` is on, so that guidance is more than cfg."""
        return (self.stg, self.modality, self.rescale) != (0.0, 1.0, 0.0)

    @property
    def reason(self) -> str:
        """A text for reports that names the recipe, such as "by the recipe of LTX-2.3 dev"."""
        return f"by the recipe of {self.name}"


def _distilled(dev: Recipe, **changes: object) -> Recipe:
    """Derive the recipe for distilled weights from ``dev``, that of full weights of the same generation.

    It has 8 fixed steps and no guidance; ``changes`` replace further fields.
    """
    fixed = replace(
        dev,
        name=dev.name.removesuffix(" dev") + " distilled",
        kind="distilled",
        steps=8,
        cfg=1.0,
        audio_cfg=1.0,
        stg=0.0,
        modality=1.0,
        rescale=0.0,
        stg_blocks=(),
        sigmas="distilled",
    )
    return replace(fixed, **changes)  # type: ignore[arg-type]


_LTX20 = Recipe(name="LTX-2.0 dev", generation="2.0")
_LTX23 = Recipe(
    name="LTX-2.3 dev",
    generation="2.3",
    node_stage2_sigmas="stage2_2.3",
    distilled_lora=0.5,
    node_image_strength=0.7,
)
# The image encoders of 2.4 and later were trained on images that are compressed less. Their guidance is that
# of the official pipelines; earlier models have that of the ComfyUI templates.
_LTX24 = replace(
    _LTX23,
    name="LTX-2.4 dev",
    generation="2.4",
    image_crf=18,
    cfg=3.0,
    audio_cfg=7.0,
    stg=1.0,
    modality=3.0,
    rescale=0.7,
    stg_blocks=(28,),
)
_LTX25 = replace(_LTX24, name="LTX-2.5 dev", generation="2.5", noise_by_token=True)
# Sizes and frame rate are those that the tiny set was trained at, on frames without H.264 compression.
_TINY = Recipe(
    name="the tiny set",
    generation="tiny",
    image_crf=0,
    steps=20,
    width=128,
    height=128,
    num_frames=49,
    fps=25.0,
    stages=1,
)

_LAYERS_OF_13B: Final = 48
LTXV_NEGATIVE_PROMPT: Final = "worst quality, inconsistent motion, blurry, jittery, distorted"

# LTX-Video, from the configurations of its official code. Audio scales have no effect on it.
_LTXV = Recipe(
    name="LTX-Video 2B",
    generation="ltxv-2b",
    steps=40,
    schedule="linear_quadratic",
    cfg=3.0,
    audio_cfg=3.0,
    stg=1.0,
    rescale=0.7,
    stg_blocks=(19,),
    image_noise=0.15,
    image_crf=29,
    fps=30.0,
    stages=1,
    negative_prompt=LTXV_NEGATIVE_PROMPT,
)
# Trained before the causal positions: no noise on images, and a schedule for the tokens of the clip.
_LTXV_OLD = replace(
    _LTXV,
    name="LTX-Video 2B 0.9.0 and 0.9.1",
    generation="ltxv-2b-0.9.1",
    schedule="ltxv",
    schedule_of="clip",
    image_noise=0.0,
    fps=25.0,
)
_LTXV_13B = replace(
    _LTXV,
    name="LTX-Video 13B",
    generation="ltxv-13b",
    steps=30,
    first_of_two_sigmas="ltxv_13b_first",
    stage2_sigmas="ltxv_13b_stage2",
    node_stage2_sigmas="ltxv_13b_stage2",
    by_step=_LAYERS_OF_13B,
    stage2_stg_blocks=(27,),
    adain=1.0,
    stages=2,
)
_LTXV_DISTILLED = replace(
    _LTXV,
    name="LTX-Video distilled",
    generation="ltxv-distilled",
    steps=8,
    cfg=1.0,
    audio_cfg=1.0,
    stg=0.0,
    rescale=0.0,
    stg_blocks=(),
    by_step=0,
    sigmas="ltxv_distilled",
    first_of_two_sigmas="ltxv_distilled_first",
    stage2_sigmas="ltxv_distilled_stage2",
    node_stage2_sigmas="ltxv_distilled_stage2",
    adain=1.0,
    stages=2,
)
_LTXV_13B_DISTILLED = replace(
    _LTXV_DISTILLED,
    name="LTX-Video 13B distilled",
    generation="ltxv-13b-distilled",
    tone_map=0.6,
)


def _both_kinds(dev: Recipe) -> tuple[Recipe, Recipe]:
    """``dev`` and what a distilled LoRA makes of it; weights that are distilled need no second recipe."""
    made = _LTXV_13B_DISTILLED if dev.generation.startswith("ltxv-13b") else _LTXV_DISTILLED
    return dev, replace(made, generation=dev.generation, kind="distilled")


RECIPES: Final[tuple[Recipe, ...]] = (
    _LTX20,
    _distilled(_LTX20),
    _LTX23,
    _distilled(_LTX23),
    _LTX24,
    _distilled(_LTX24),
    _LTX25,
    # The second stage uses Euler all the same: three steps cannot remove fresh noise.
    _distilled(_LTX25, sampler="euler_ancestral", eta=1.0),
    _TINY,
    _distilled(_TINY),
    *_both_kinds(_LTXV_OLD),
    *_both_kinds(_LTXV),
    *_both_kinds(_LTXV_DISTILLED),
    *_both_kinds(_LTXV_13B),
    *_both_kinds(_LTXV_13B_DISTILLED),
)
DEFAULT: Final = _LTX20
"""The recipe for requests that are planned without a checkpoint."""


def recipe_for(generation: str, kind: Kind = "dev") -> Recipe:
    """Return the recipe (default settings) for a generation: "2.0" to "2.5", "tiny", or of LTX-Video.

    Those of LTX-Video are what :func:`ltxv_generation` returns. ``kind`` chooses full ("dev") or distilled
    weights. Raises ValueError for another generation.
    """
    for recipe in RECIPES:
        if (recipe.generation, recipe.kind) == (generation, kind):
            return recipe
    known = ", ".join(dict.fromkeys(recipe.generation for recipe in RECIPES))
    raise ValueError(f"there is no recipe for generation {generation!r}; use one of {known}")


def generation_of(model_version: str, *, inferred: str | None = None) -> str:
    """Return the generation whose recipe applies to a header's ``model_version``: "2.3.0" -> "2.3".

    The first two numbers decide: of the generations with a recipe, the result is the newest that is not newer
    than the version, or the oldest if all are newer. A version that ends in "-tiny" is the generation "tiny".
    If the version cannot be read, the result is ``inferred``, the generation that the caller found from the
    tensors, or if that is None "2.0".
    """
    if model_version.endswith("-tiny"):
        return "tiny"
    match = re.match(r"(\d+)\D(\d+)", model_version)
    if match is None:
        return inferred or DEFAULT.generation
    version = int(match[1]), int(match[2])
    known = [recipe.generation for recipe in RECIPES if recipe.generation[0].isdigit()]
    older = [name for name in known if tuple(map(int, name.split("."))) <= version]
    # A version that is newer than the table has the latest recipe, the best guess until it has a row.
    return older[-1] if older else known[0]


def ltxv_generation(*, layers: int, causal: bool, distilled: bool) -> str:
    """The generation of LTX-Video whose recipe applies to a transformer of ``layers`` blocks.

    ``causal`` says whether its positions are (from 0.9.5 on), ``distilled`` what its header says.
    """
    size = "13b" if layers >= _LAYERS_OF_13B else "2b"
    if distilled:
        return "ltxv-13b-distilled" if size == "13b" else "ltxv-distilled"
    return f"ltxv-{size}" if causal or size == "13b" else "ltxv-2b-0.9.1"


def of_kind(recipe: Recipe, *, distilled: bool) -> Recipe:
    """Return the recipe (default settings) of the generation of ``recipe``, for distilled or full weights.

    It is ``recipe`` itself if that is for these weights.
    """
    kind: Kind = "distilled" if distilled else "dev"
    # The recipe of a checkpoint has block numbers that fit its depth, unlike that of the table.
    return recipe if recipe.kind == kind else recipe_for(recipe.generation, kind)
