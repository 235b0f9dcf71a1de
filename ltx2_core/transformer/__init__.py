"""The diffusion transformer: noisy video and audio tokens with text to velocities."""

from .guided import GuideWeights
from .modality import Modality
from .model import OnBlock, Transformer
from .perturbations import Perturbation, Perturbations
from .rope_memory import RopeMemory
from .rope_tables import RopeTables
from .runner import Network, Runner
from .streams import Hidden
from .texts import TextMemory, text_keys_bytes

__all__ = [
    "GuideWeights",
    "Hidden",
    "Modality",
    "Network",
    "OnBlock",
    "Perturbation",
    "Perturbations",
    "RopeMemory",
    "RopeTables",
    "Runner",
    "TextMemory",
    "Transformer",
    "text_keys_bytes",
]
