"""Writes API-format graphs as Python, and the sampling graph that most host tests vary.

``sampled = g.add("SamplerCustomAdvanced", noise=noise, ...)`` adds a node; ``node[1]`` is its second output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from tiny_models import TinyModels

Whose = Literal["core", "ours"]
CROSS_MODAL = "a2v_cross_attn,v2a_cross_attn"
"""Switches of the two attentions between video and audio."""


@dataclass(frozen=True)
class Link:
    """Output ``slot`` of a node."""

    node: str
    slot: int = 0

    def __getitem__(self, slot: int) -> Link:
        return Link(self.node, slot)


class Graph:
    """A graph in API format; `prompt` is what ``POST /prompt`` takes."""

    def __init__(self) -> None:
        self.prompt: dict[str, Any] = {}

    def add(self, class_type: str, **inputs: Any) -> Link:
        node = str(len(self.prompt) + 1)
        self.prompt[node] = {
            "class_type": class_type,
            "inputs": {k: [v.node, v.slot] if isinstance(v, Link) else v for k, v in inputs.items()},
        }
        return Link(node)

    def dump(self, name: str, **what: Link) -> Link:
        """Write latent, image, audio or conditioning to a file that ``Result.tensors(name)`` reads."""
        return self.add("LTX2ProbeDump", name=name, **what)


@dataclass(frozen=True)
class Loaded:
    """The models of one checkpoint, each from the host's loaders or from ours."""

    model: Link
    vae: Link
    audio_vae: Link
    clip: Link


def load(g: Graph, models: TinyModels, generation: str, *, model: Whose, vae: Whose | None = None) -> Loaded:
    """Load a checkpoint; the text encoder is always ours, because the host's cannot be tiny."""
    name = models.checkpoints[generation]
    core = g.add("CheckpointLoaderSimple", ckpt_name=name)
    core_audio = g.add("LTXVAudioVAELoader", ckpt_name=name)
    ours = (vae or model) == "ours"
    return Loaded(
        model=g.add("LTX2ProbeLoadModel", ckpt_name=name) if model == "ours" else core,
        vae=g.add("LTX2ProbeLoadVAE", ckpt_name=name, audio=False) if ours else core[2],
        audio_vae=g.add("LTX2ProbeLoadVAE", ckpt_name=name, audio=True) if ours else core_audio,
        clip=g.add("LTX2ProbeLoadClip", text_encoder=models.text_encoder, ckpt_name=name),
    )


@dataclass(frozen=True)
class Guide:
    frames: int
    frame_idx: int
    strength: float = 1.0
    masked: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a sampling graph does in addition to text to video."""

    frames: int = 9
    batch: int = 1
    steps: int = 2
    cfg: float = 3.0
    sampler: str = "euler"
    image_strength: float | None = None
    frame_mask: str = ""
    """Noise mask of the video, one value per latent frame."""
    audio_mask: str = ""
    """Noise mask of the audio, one value per latent frame; 9 latents for 9 frames at 25 fps."""
    guides: tuple[Guide, ...] = ()
    lora: str = ""
    lora_strength: float = 0.7
    ic_lora: bool = False
    slots: str = ""
    """Pixel frames of generated keyframes."""
    slots_marked: bool = True
    """Whether the conditioning says that they are generated keyframes."""
    slots_cells: int = 0
    """Tokens a frame that the conditioning states; 0 states the true number."""
    streams_off: str = ""
    """Switches of the network that are off; they have no effect on a recipe without audio."""
    audio: bool = True
    reference_audio: bool = False


def _with_lora(g: Graph, model: Link, recipe: Recipe, whose: Whose) -> Link:
    if not recipe.lora:
        return model
    if whose == "ours":
        return g.add("LTX2ProbeLora", model=model, name=recipe.lora, strength=recipe.lora_strength)
    return g.add(
        "LoraLoaderModelOnly", model=model, lora_name=recipe.lora, strength_model=recipe.lora_strength
    )


def _add_guide(
    g: Graph, loaded: Loaded, recipe: Recipe, number: int, inputs: tuple[Link, Link, Link]
) -> Link:
    """A guide on top of the positive and negative conditioning and the latent ``inputs``."""
    guide, size = recipe.guides[number], 32 if recipe.ic_lora else 64
    more: dict[str, Any] = {}
    if guide.masked:
        image = g.add("LTX2ProbeImage", seed=60, frames=guide.frames, width=64, height=64)
        more["attention_mask"] = g.add("ImageToMask", image=image, channel="red")
    if recipe.ic_lora:
        more["iclora_parameters"] = g.add("GetICLoRAParameters", iclora_model=loaded.model)
    return g.add(
        "LTXVAddGuide",
        positive=inputs[0],
        negative=inputs[1],
        vae=loaded.vae,
        latent=inputs[2],
        image=g.add("LTX2ProbeImage", seed=40 + number, frames=guide.frames, width=size, height=size),
        frame_idx=guide.frame_idx,
        strength=guide.strength,
        **more,
    )


def sample(g: Graph, loaded: Loaded, recipe: Recipe, *, whose_lora: Whose = "core") -> Link:
    """Add the recipe's graph of core nodes; the result is the sampled latent."""
    model = _with_lora(g, loaded.model, recipe, whose_lora)
    if recipe.streams_off and recipe.audio:
        model = g.add("LTX2ProbeStreams", model=model, off=recipe.streams_off)
    positive = g.add("CLIPTextEncode", clip=loaded.clip, text="a red ball rolls to the left, low hum")
    negative = g.add("CLIPTextEncode", clip=loaded.clip, text="noise")
    cond = g.add("LTXVConditioning", positive=positive, negative=negative, frame_rate=24.0)
    latent = g.add("EmptyLTXVLatentVideo", width=64, height=64, length=recipe.frames, batch_size=recipe.batch)
    if recipe.image_strength is not None:
        image = g.add("LTX2ProbeImage", seed=3, frames=1, width=64, height=64)
        latent = g.add(
            "LTXVImgToVideoInplace",
            vae=loaded.vae,
            image=image,
            latent=latent,
            strength=recipe.image_strength,
            bypass=False,
        )
    if recipe.frame_mask:
        latent = g.add("LTX2ProbeFrameMask", latent=latent, values=recipe.frame_mask)
    for number in range(len(recipe.guides)):
        cond = _add_guide(g, replace(loaded, model=model), recipe, number, (cond[0], cond[1], latent))
        latent = cond[2]
    if recipe.slots:
        cond = g.add(
            "LTX2ProbeSlots",
            positive=cond[0],
            negative=cond[1],
            latent=latent,
            frames=recipe.slots,
            marked=recipe.slots_marked,
            cells=recipe.slots_cells,
        )
        latent = cond[2]
    if recipe.audio:
        audio = g.add(
            "LTXVEmptyLatentAudio",
            frames_number=recipe.frames,
            frame_rate=25,
            batch_size=recipe.batch,
            audio_vae=loaded.audio_vae,
        )
        if recipe.audio_mask:
            audio = g.add("LTX2ProbeFrameMask", latent=audio, values=recipe.audio_mask)
        latent = g.add("LTXVConcatAVLatent", video_latent=latent, audio_latent=audio)
    if recipe.reference_audio:
        referenced = g.add(
            "LTXVReferenceAudio",
            model=model,
            positive=cond[0],
            negative=cond[1],
            reference_audio=g.add("LTX2ProbeAudio", samples=6400, sample_rate=16000, channels=2),
            audio_vae=loaded.audio_vae,
            identity_guidance_scale=2.0,
            start_percent=0.0,
            end_percent=1.0,
        )
        model, cond = referenced, referenced[1]
    sigmas = g.add(
        "LTXVScheduler", steps=recipe.steps, max_shift=2.05, base_shift=0.95, stretch=True, terminal=0.1
    )
    guider = g.add(
        "CFGGuider", model=model, positive=cond, negative=Link(cond.node, cond.slot + 1), cfg=recipe.cfg
    )
    return g.add(
        "SamplerCustomAdvanced",
        noise=g.add("RandomNoise", noise_seed=42),
        guider=guider,
        sampler=g.add("KSamplerSelect", sampler_name=recipe.sampler),
        sigmas=sigmas,
        latent_image=latent,
    )
