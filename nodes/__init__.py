"""The nodes of this pack. Every module of this package needs ComfyUI."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import command_route
from .clip import plan_route
from .clip.build_prompt import LTX2AVBuildPrompt
from .clip.choose_run import LTX2AVChooseRun
from .clip.compare import LTX2AVCompare
from .clip.decode import LTX2AVDecodeAudio, LTX2AVDecodeToVideo, LTX2AVDecodeVideo
from .clip.duration import LTX2AVDurationPredictor
from .clip.enhance import LTX2AVEnhancePrompt
from .clip.hdr import LTX2AVDecodeHDR, LTX2AVLoadEXR, LTX2AVSaveHDR
from .clip.latents import LTX2AVConcatLatent, LTX2AVEmptyLatent, LTX2AVLatentUpscale, LTX2AVSeparateLatent
from .clip.memory_plan import LTX2AVMemoryPlan
from .clip.plan import LTX2AVClipPlan
from .clip.prompt import LTX2AVPrompt
from .clip.prompt_by_time import LTX2AVPromptByTime
from .conditioning.audio import LTX2AVReferenceAudio, LTX2AVTextToAudio
from .conditioning.control import LTX2AVCanny
from .conditioning.guides import LTX2AVAddGuide, LTX2AVCropGuides
from .conditioning.images import LTX2AVImgToVideoInplace, LTX2AVPreprocess, LTX2AVSetAudio
from .conditioning.keyframes import (
    LTX2AVAddGeneratedKeyframes,
    LTX2AVGeneratedKeyframesToGuides,
    LTX2AVSeparateGeneratedKeyframes,
)
from .conditioning.shots import LTX2AVShotList
from .conditioning.time_mask import LTX2AVTimeMask
from .editing.dub import LTX2AVDub
from .editing.finish import LTX2AVFinishEdit
from .editing.long_video import LTX2AVDecodeLongVideo, LTX2AVLongVideo
from .editing.prepare import LTX2AVExtend, LTX2AVRetake, LTX2AVSound
from .loading.inspect import LTX2AVInspect
from .loading.loaders import LTX2AVLoadAll, LTX2AVLoadCheckpoint, LTX2AVLoadTextEncoder, LTX2AVLoadUpscaler
from .loading.lora import LTX2AVLoadLora
from .sampling.dfr import LTX2AVSampleDFR
from .sampling.guidance import LTX2AVGuider, LTX2AVStreamGuidance
from .sampling.guidance_ranges import LTX2AVGuidanceRange
from .sampling.samplers import LTX2AVSampler
from .sampling.speed import LTX2AVSpeed
from .sampling.stage import LTX2AVDistilledSigmas, LTX2AVSampleStage, LTX2AVScheduler
from .sampling.tiles import LTX2AVSpatialTiles
from .sampling.two_stage import LTX2AVNextStage
from .training.train_lora import LTX2AVTrainLora

# In the order of a graph: load, plan, condition, sample, decode, then editing, tools and training.
NODES: list[type[io.ComfyNode]] = [
    LTX2AVLoadAll,
    LTX2AVLoadCheckpoint,
    LTX2AVLoadTextEncoder,
    LTX2AVLoadUpscaler,
    LTX2AVLoadLora,
    LTX2AVInspect,
    LTX2AVClipPlan,
    LTX2AVMemoryPlan,
    LTX2AVChooseRun,
    LTX2AVBuildPrompt,
    LTX2AVPrompt,
    LTX2AVPromptByTime,
    LTX2AVShotList,
    LTX2AVEnhancePrompt,
    LTX2AVDurationPredictor,
    LTX2AVEmptyLatent,
    LTX2AVConcatLatent,
    LTX2AVSeparateLatent,
    LTX2AVLatentUpscale,
    LTX2AVPreprocess,
    LTX2AVImgToVideoInplace,
    LTX2AVSetAudio,
    LTX2AVAddGuide,
    LTX2AVCropGuides,
    LTX2AVAddGeneratedKeyframes,
    LTX2AVSeparateGeneratedKeyframes,
    LTX2AVGeneratedKeyframesToGuides,
    LTX2AVTimeMask,
    LTX2AVScheduler,
    LTX2AVDistilledSigmas,
    LTX2AVSampler,
    LTX2AVStreamGuidance,
    LTX2AVGuidanceRange,
    LTX2AVGuider,
    LTX2AVSampleStage,
    LTX2AVSampleDFR,
    LTX2AVDecodeVideo,
    LTX2AVDecodeAudio,
    LTX2AVDecodeToVideo,
    LTX2AVNextStage,
    LTX2AVLoadEXR,
    LTX2AVDecodeHDR,
    LTX2AVSaveHDR,
    LTX2AVExtend,
    LTX2AVRetake,
    LTX2AVSound,
    LTX2AVDub,
    LTX2AVFinishEdit,
    LTX2AVCompare,
    LTX2AVSpatialTiles,
    LTX2AVSpeed,
    LTX2AVLongVideo,
    LTX2AVDecodeLongVideo,
    LTX2AVTextToAudio,
    LTX2AVReferenceAudio,
    LTX2AVCanny,
    LTX2AVTrainLora,
]


class LTX2Extension(ComfyExtension):
    """The extension that ComfyUI loads; it names the nodes of this pack."""

    async def on_load(self) -> None:
        """Add the routes of the page: the memory plan of a size that is typed, and a graph as a command."""
        plan_route.add_route()
        command_route.add_route()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The classes of all nodes of this pack."""
        return NODES
