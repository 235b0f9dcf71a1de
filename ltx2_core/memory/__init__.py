"""What a run will need in memory, how it keeps within a budget, and what it did need."""

from .decoding import DecoderMemory, decoder_memory
from .estimate import MemoryEstimate, estimate_memory
from .picture import draw_plans
from .plan import (
    PRESETS,
    MemoryPlan,
    PlannedStage,
    check_budget,
    choose_piece,
    free_memory,
    parse_budget,
    parse_size,
    plan_memory,
    size_text,
    usable,
)
from .released import RELEASED, STORED, ModelSize, Released, Stored, released_size
from .streaming import BlockStreaming
from .trace import Trace

__all__ = [
    "PRESETS",
    "RELEASED",
    "STORED",
    "BlockStreaming",
    "DecoderMemory",
    "MemoryEstimate",
    "MemoryPlan",
    "ModelSize",
    "PlannedStage",
    "Released",
    "Stored",
    "Trace",
    "check_budget",
    "choose_piece",
    "decoder_memory",
    "draw_plans",
    "estimate_memory",
    "free_memory",
    "parse_budget",
    "parse_size",
    "plan_memory",
    "released_size",
    "size_text",
    "usable",
]
