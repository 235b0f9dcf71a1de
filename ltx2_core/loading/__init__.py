"""Loads model files: detects what they contain, builds networks from them, merges LoRAs, converts files."""

from ..storage.header import Header, TensorInfo, read_header
from .checkpoint import Checkpoint, find_component, open_checkpoint
from .detect import Component
from .infer import Generation
from .lora import Lora, LoraSpec, open_lora
from .lora_report import LoraReport

__all__ = [
    "Checkpoint",
    "Component",
    "Generation",
    "Header",
    "Lora",
    "LoraReport",
    "LoraSpec",
    "TensorInfo",
    "find_component",
    "open_checkpoint",
    "open_lora",
    "read_header",
]
