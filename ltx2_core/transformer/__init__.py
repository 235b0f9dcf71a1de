"""The diffusion transformer: noisy video and audio tokens with text to velocities."""

from .guided import GuideWeights
from .modality import Modality
from .model import Hidden, OnBlock, RopeTables, Transformer
from .perturbations import Perturbation, Perturbations
from .rope_memory import RopeMemory
from .texts import TextMemory, text_keys_bytes

__all__ = [
    "GuideWeights",
    "Hidden",
    "Modality",
    "OnBlock",
    "Perturbation",
    "Perturbations",
    "RopeMemory",
    "RopeTables",
    "TextMemory",
    "Transformer",
    "text_keys_bytes",
]
