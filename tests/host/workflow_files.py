"""Released model files that the workflows name: where each is published and in which folder it belongs."""

from __future__ import annotations

from dataclasses import dataclass

PAGE = "https://huggingface.co"


@dataclass(frozen=True)
class File:
    """A file of ``repository``, at ``path`` in it, for the folder ``models/<folder>``."""

    repository: str
    path: str
    folder: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def url(self) -> str:
        return f"{PAGE}/{self.repository}/resolve/main/{self.path}"

    def model(self) -> dict[str, str]:
        """As ComfyUI's page reads it from a node, to offer the download."""
        return {"name": self.name, "url": self.url, "directory": self.folder}

    def line(self) -> str:
        """In a note."""
        return f"- [{self.name}]({PAGE}/{self.repository}) in `models/{self.folder}`"


GEMMA3 = File(
    "Comfy-Org/ltx-2", "split_files/text_encoders/gemma_3_12B_it_fp4_mixed.safetensors", "text_encoders"
)
DEV20 = File("Lightricks/LTX-2", "ltx-2-19b-dev-fp8.safetensors", "checkpoints")
DISTILLED20 = File("Lightricks/LTX-2", "ltx-2-19b-distilled-lora-384.safetensors", "loras")
UPSCALER20 = File("Lightricks/LTX-2", "ltx-2-spatial-upscaler-x2-1.0.safetensors", "latent_upscale_models")
CANNY20 = File(
    "Lightricks/LTX-2-19b-IC-LoRA-Canny-Control", "ltx-2-19b-ic-lora-canny-control.safetensors", "loras"
)
DETAILER20 = File("Lightricks/LTX-2-19b-IC-LoRA-Detailer", "ltx-2-19b-ic-lora-detailer.safetensors", "loras")
CAMERA20 = File(
    "Lightricks/LTX-2-19b-LoRA-Camera-Control-Dolly-Left",
    "ltx-2-19b-lora-camera-control-dolly-left.safetensors",
    "loras",
)
DEV23 = File("Lightricks/LTX-2.3-fp8", "ltx-2.3-22b-dev-fp8.safetensors", "checkpoints")
DISTILLED23 = File(
    "Comfy-Org/ltx-2.3",
    "split_files/loras/ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16.safetensors",
    "loras",
)
UPSCALER23 = File(
    "Lightricks/LTX-2.3", "ltx-2.3-spatial-upscaler-x2-1.1.safetensors", "latent_upscale_models"
)
TEMPORAL23 = File(
    "Lightricks/LTX-2.3", "ltx-2.3-temporal-upscaler-x2-1.0.safetensors", "latent_upscale_models"
)
"""It doubles the frame rate of clips of LTX-2.3 and 2.5."""
UNION23 = File(
    "Lightricks/LTX-2.3-22b-IC-LoRA-Union-Control",
    "ltx-2.3-22b-ic-lora-union-control-ref0.5.safetensors",
    "loras",
)
DUBIT23 = File("Lightricks/LTX-2.3-22b-IC-LoRA-DubIt", "ltx-2.3-22b-ic-lora-dubit-0.9.safetensors", "loras")
HDR23 = File("Lightricks/LTX-2.3-22b-IC-LoRA-HDR", "ltx-2.3-22b-ic-lora-hdr-0.9.safetensors", "loras")
DISTILLED25 = File(
    "Lightricks/LTX-2.5",
    "diffusion_models/ltx-2.5-22b-distilled-transformer-comfy-int8-convrot.safetensors",
    "diffusion_models",
)
GEMMA4 = File(
    "Lightricks/LTX-2.5",
    "text_encoders/gemma4-12b-with-proj-ltx-2.5-comfy-int8-convrot.safetensors",
    "text_encoders",
)
VIDEO_VAE25 = File("Lightricks/LTX-2.5", "vae/ltx-2.5-video-vae-conv-bf16.safetensors", "vae")
AUDIO_VAE25 = File("Lightricks/LTX-2.5", "vae/ltx-2.5-audio-vae-bf16.safetensors", "vae")
UPSCALER25 = File(
    "Lightricks/LTX-2.5",
    "latent_upscale_models/ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0.safetensors",
    "latent_upscale_models",
)
LTXV2B = File("Lightricks/LTX-Video", "ltxv-2b-0.9.8-distilled.safetensors", "checkpoints")
T5 = File("comfyanonymous/flux_text_encoders", "t5xxl_fp16.safetensors", "text_encoders")
UPSCALER_LTXV = File(
    "Lightricks/LTX-Video", "ltxv-spatial-upscaler-0.9.8.safetensors", "latent_upscale_models"
)
FILES = tuple(value for value in list(globals().values()) if isinstance(value, File))


def named(values: object) -> list[File]:
    """The released files among the values of a node's widgets."""
    return [file for file in FILES if isinstance(values, list) and file.name in values]
