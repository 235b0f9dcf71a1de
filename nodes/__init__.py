"""The nodes of this pack. Imported by the host only: every module below needs ComfyUI."""

from __future__ import annotations

from .clip_plan import LTX2AVClipPlan
from .conditioning import LTX2AVImgToVideoInplace, LTX2AVPreprocess, LTX2AVSetAudio
from .control import LTX2AVCanny
from .decode import LTX2AVDecodeAudio, LTX2AVDecodeToVideo, LTX2AVDecodeVideo
from .editing import LTX2AVExtend, LTX2AVRetake, LTX2AVSound
from .finish_edit import LTX2AVFinishEdit
from .guidance import LTX2AVGuider, LTX2AVStreamGuidance
from .guidance_ranges import LTX2AVGuidanceRange
from .guides import LTX2AVAddGuide, LTX2AVCropGuides
from .inspect import LTX2AVInspect
from .latents import LTX2AVConcatLatent, LTX2AVEmptyLatent, LTX2AVLatentUpscale, LTX2AVSeparateLatent
from .loaders import LTX2AVLoadAll, LTX2AVLoadCheckpoint, LTX2AVLoadTextEncoder, LTX2AVLoadUpscaler
from .long_video import LTX2AVDecodeLongVideo, LTX2AVLongVideo
from .lora import LTX2AVLoadLora
from .masks import LTX2AVTimeMask
from .memory_plan import LTX2AVMemoryPlan
from .prompt import LTX2AVPrompt
from .samplers import LTX2AVSampler
from .sampling import LTX2AVDistilledSigmas, LTX2AVSampleStage, LTX2AVScheduler
from .sound import LTX2AVReferenceAudio, LTX2AVTextToAudio
from .speed import LTX2AVSpeed
from .tiles import LTX2AVSpatialTiles
from .two_stage import LTX2AVNextStage

NODES: list[type] = [
    LTX2AVLoadAll,
    LTX2AVLoadCheckpoint,
    LTX2AVLoadTextEncoder,
    LTX2AVLoadUpscaler,
    LTX2AVLoadLora,
    LTX2AVInspect,
    LTX2AVClipPlan,
    LTX2AVMemoryPlan,
    LTX2AVPrompt,
    LTX2AVEmptyLatent,
    LTX2AVConcatLatent,
    LTX2AVSeparateLatent,
    LTX2AVLatentUpscale,
    LTX2AVPreprocess,
    LTX2AVImgToVideoInplace,
    LTX2AVSetAudio,
    LTX2AVAddGuide,
    LTX2AVCropGuides,
    LTX2AVTimeMask,
    LTX2AVScheduler,
    LTX2AVDistilledSigmas,
    LTX2AVSampler,
    LTX2AVStreamGuidance,
    LTX2AVGuidanceRange,
    LTX2AVGuider,
    LTX2AVSampleStage,
    LTX2AVDecodeVideo,
    LTX2AVDecodeAudio,
    LTX2AVDecodeToVideo,
    LTX2AVNextStage,
    LTX2AVExtend,
    LTX2AVRetake,
    LTX2AVSound,
    LTX2AVFinishEdit,
    LTX2AVSpatialTiles,
    LTX2AVSpeed,
    LTX2AVLongVideo,
    LTX2AVDecodeLongVideo,
    LTX2AVTextToAudio,
    LTX2AVReferenceAudio,
    LTX2AVCanny,
]
