"""Nodes for guidance with separate scales for video and audio: a GUIDER for ComfyUI's sampling nodes."""

from __future__ import annotations

from comfy_api.latest import io

from ...ltx2_core.sampling.guidance import Guidance, GuidanceSchedule, Nag, StreamGuidance, stg_blocks_of
from ..host.guider import AVGuider
from ..host.values import Conditioning, Model
from ..inputs import identity_input, sampled_inputs
from ..quantity import quantity

CATEGORY = "LTX-2/sampling"
Scales = io.Custom("LTX2AV_GUIDANCE")
Ranges = io.Custom("LTX2AV_GUIDANCE_RANGES")
SCALES = {
    "cfg": "It follows the prompt more strongly.",
    "stg": "The perturbed pass skips self-attention in the blocks of stg_blocks.",
    "modality": "3 is usual for the full model.",
    "rescale": "",
}
"""Scale of a stream -> what its tooltip adds to the help of the option."""

GuidanceRanges = dict[float, tuple[StreamGuidance, StreamGuidance]]
"""The scales of video and audio for steps at a noise level and below."""


def scale_input(name: str, default: float, stream: str | None = None) -> io.Input:
    """Create the widget for the guidance scale ``name``, such as "cfg".

    The widget's name begins with ``stream`` if that is not None: "video_cfg".
    """
    label = name if stream is None else f"{stream}_{name}"
    # The table allows negative scales for stg and modality, which widgets never did.
    high = None if name == "rescale" else 100.0
    return quantity(name, default, name=label, low=0.0, high=high, step=0.05, more=SCALES[name])


def blocks_input() -> io.Input:
    """Create the widget for the numbers of the transformer blocks that spatio-temporal guidance perturbs."""
    return io.String.Input(
        "stg_blocks",
        default="",
        tooltip="Blocks that stg perturbs, such as 28; empty: 29 for LTX-2.0, 28 for later models.",
    )


def parse_blocks(text: str, model: Model) -> tuple[int, ...]:
    """Parse block numbers separated by commas; empty text means the usual block for ``model``.

    Raises ValueError for other text, and for blocks that the model does not have.
    """
    network = model.model.diffusion_model
    if not text.strip():
        # The host's own network has this attribute too, and no configuration.
        generation = "2.3" if getattr(network, "caption_proj_before_connector", True) else "2.0"
        usual: tuple[int, ...] = stg_blocks_of(len(network.transformer_blocks), generation)
        return usual
    try:
        blocks = tuple(int(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise ValueError(f"stg_blocks {text!r} must be block numbers between commas, such as 28") from None
    # A number past the end would perturb nothing and cost a pass.
    count = len(network.transformer_blocks)
    if not all(0 <= block < count for block in blocks):
        raise ValueError(f"stg_blocks {text!r}: this model has blocks 0 to {count - 1}")
    return blocks


def scales_text(guidance: Guidance) -> str:
    """The guidance scales of both streams for a report; "no guidance" if a step costs one forward pass."""
    if len(guidance.passes()) == 1:
        return "no guidance"
    streams = {"video": guidance.video, "audio": guidance.audio}
    return " and ".join(
        f"{name} " + ", ".join(f"{scale} {getattr(stream, scale):g}" for scale in SCALES)
        for name, stream in streams.items()
    )


class LTX2AVStreamGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVStreamGuidance",
            display_name="LTX-2 Stream Guidance",
            search_aliases=[
                "video cfg",
                "audio cfg",
                "multimodal",
                "stg",
                "modality guidance",
                "guidance",
                "apg",
                "cfg star",
            ],
            category=CATEGORY,
            description="The scales of one stream, video or audio. A value that is off costs nothing.",
            inputs=[
                scale_input("cfg", 3.0),
                scale_input("stg", 0.0),
                scale_input("modality", 1.0),
                scale_input("rescale", 0.0),
                identity_input(0.0, "With LTXVReferenceAudio, set its own identity_guidance_scale to 0."),
                io.Boolean.Input(
                    "cfg_star",
                    default=False,
                    tooltip="CFG-Zero*: scale the estimate of the negative prompt to fit that of the prompt "
                    "before subtracting it.",
                ),
                quantity("apg_eta", 1.0, low=-1.0, high=1.0, step=0.05, more="That part saturates colours."),
                quantity("apg_threshold", 0.0, high=10000.0, step=0.1),
                quantity("skip_steps", 0, high=100, optional=True, more="Faster only if both streams skip."),
            ],
            outputs=[Scales.Output(display_name="guidance", tooltip="For video or audio of LTX-2 Guider.")],
        )

    @classmethod
    def execute(
        cls,
        cfg: float,
        stg: float,
        modality: float,
        rescale: float,
        identity: float,
        cfg_star: bool,
        apg_eta: float,
        apg_threshold: float,
        skip_steps: int = 0,
    ) -> io.NodeOutput:
        guidance = StreamGuidance(
            cfg=cfg,
            stg=stg,
            modality=modality,
            rescale=rescale,
            identity=identity,
            cfg_star=cfg_star,
            apg_eta=apg_eta,
            apg_threshold=apg_threshold,
            skip_steps=skip_steps,
        )
        return io.NodeOutput(guidance)


class LTX2AVGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVGuider",
            display_name="LTX-2 Guider",
            search_aliases=["cfg guider", "guidance", "nag", "negative prompt", "stg", "modality"],
            category=CATEGORY,
            description="Guides video and audio with separate scales. For SamplerCustomAdvanced.",
            inputs=[
                *sampled_inputs("cfg and nag_scale are 1"),
                Scales.Input("video", tooltip="Scales of the video, from LTX-2 Stream Guidance."),
                Scales.Input(
                    "audio", optional=True, tooltip="Scales of the audio; by default those of the video."
                ),
                blocks_input(),
                quantity("from_sigma", 1.0, step=0.001, more="Steps above it cost one forward pass."),
                quantity("to_sigma", 0.0, step=0.001, more="Steps below it cost one forward pass."),
                quantity("nag", 1.0, name="nag_scale", low=1.0, high=100.0, step=0.1, more="1 is off."),
                quantity("nag_alpha", 0.25, step=0.01),
                quantity("nag_tau", 2.5, low=0.1, high=100.0, step=0.1),
                Ranges.Input(
                    "ranges",
                    optional=True,
                    tooltip="Other scales below some noise level, from LTX-2 Guidance Range.",
                ),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        positive: Conditioning,
        negative: Conditioning,
        video: StreamGuidance,
        stg_blocks: str,
        from_sigma: float,
        to_sigma: float,
        nag_scale: float,
        nag_alpha: float,
        nag_tau: float,
        audio: StreamGuidance | None = None,
        ranges: GuidanceRanges | None = None,
    ) -> io.NodeOutput:
        # The guider's own scales are a range too: the one from the highest noise level.
        scales = {1.0: (video, video if audio is None else audio), **(ranges or {})}
        stg = any(stream.stg for streams in scales.values() for stream in streams)
        # Without stg the text is not read, so that a graph of another model does not fail on its blocks.
        blocks = parse_blocks(stg_blocks, model) if stg else ()

        def guidance_of(streams: tuple[StreamGuidance, StreamGuidance]) -> Guidance:
            return Guidance(
                video=streams[0],
                audio=streams[1],
                stg_blocks=blocks,
                from_sigma=from_sigma,
                to_sigma=to_sigma,
            )

        guidance = GuidanceSchedule(tuple((sigma, guidance_of(streams)) for sigma, streams in scales.items()))
        # At 1 it is neutral, and the second text attention of every block would have no effect.
        nag = None if nag_scale == 1 else Nag(scale=nag_scale, alpha=nag_alpha, tau=nag_tau)
        guider = AVGuider(model, guidance, nag)
        guider.set_conds(positive, negative)
        return io.NodeOutput(guider)
