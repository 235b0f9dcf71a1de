"""The diffusion transformer: noisy video and audio tokens with text to velocities."""

from .guided import GuideWeights
from .modality import Modality
from .model import Hidden, OnBlock, RopeTables, Transformer
from .perturbations import Perturbation, Perturbations
from .texts import TextMemory

__all__ = [
    "GuideWeights",
    "Hidden",
    "Modality",
    "OnBlock",
    "Perturbation",
    "Perturbations",
    "RopeTables",
    "TextMemory",
    "Transformer",
]
