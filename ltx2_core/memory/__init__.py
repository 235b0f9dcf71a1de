"""Memory of a run: predicted before it starts, planned to fit a budget, and measured while it runs."""

from .audio_stage import AudioSize, audio_bytes
from .decode_choice import DecodeChoice, choose_decode
from .decoder_memory import DecoderMemory
from .decoding import decoder_memory
from .estimate import MemoryEstimate, estimate_memory
from .fitting import plan_or_propose
from .plan import (
    PRESETS,
    MemoryPlan,
    ModelSize,
    PlannedStage,
    check_budget,
    free_memory,
    parse_budget,
    parse_size,
    plan_memory,
    size_text,
    text_stages,
    usable,
)
from .plot import draw_plans
from .released import RELEASED, STORED, Released, Stored, released_config, released_size
from .source_stage import encoder_bytes, source_host_bytes
from .streaming import BlockStreaming
from .text_stage import TextSize, text_bytes
from .trace import Trace

__all__ = [
    "PRESETS",
    "RELEASED",
    "STORED",
    "AudioSize",
    "BlockStreaming",
    "DecodeChoice",
    "DecoderMemory",
    "MemoryEstimate",
    "MemoryPlan",
    "ModelSize",
    "PlannedStage",
    "Released",
    "Stored",
    "TextSize",
    "Trace",
    "audio_bytes",
    "check_budget",
    "choose_decode",
    "decoder_memory",
    "draw_plans",
    "encoder_bytes",
    "estimate_memory",
    "free_memory",
    "parse_budget",
    "parse_size",
    "plan_memory",
    "plan_or_propose",
    "released_config",
    "released_size",
    "size_text",
    "source_host_bytes",
    "text_bytes",
    "text_stages",
    "usable",
]
