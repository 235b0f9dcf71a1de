"""The settings of training runs: one table for the configuration file and the options of the command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..training.names import TASK_NAMES
from ..training.optimizer_names import OPTIMIZERS
from ..training.schedules import RESTART_FLOOR, SCHEDULES
from ..training.targets import PRESETS, TEXT_PRESETS


def _key(default: Any, help_: str, **facts: Any) -> Any:
    """A field with its help; ``choices``, ``low`` and ``high`` bound it, ``free`` does not change weights."""
    return field(default=default, metadata={"help": help_, **facts})


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings that all runs have, with their defaults. Raises ValueError for values out of range."""

    dataset: str = _key("", "Folder that ltx2 dataset wrote.", free=True)
    output_dir: str = _key("training_run", "Folder of the run: weights, state, log, previews.", free=True)
    checkpoints: tuple[str, ...] = _key((), "Model files. Without any: the embedded set.", free=True)
    text_encoder: str = _key("", "Folder or file of Gemma, for previews.", free=True)
    task: str = _key("t2v", "What is generated from what.", choices=TASK_NAMES)
    conditions: tuple[str, ...] = _key(
        (), "Known content, [audio.]KIND[=VALUE][:PROBABILITY], such as first_frame:0.5 or prefix=2:0.3."
    )
    learning_rate: float = _key(1e-4, "Highest learning rate.", low=0.0, high=1.0)
    audio_learning_rate: float = _key(
        0.0, "Learning rate of layers that change the audio; 0 is learning_rate.", low=0.0, high=1.0
    )
    optimizer: str = _key(
        "adamw",
        "adamw8bit holds averages in eight bits; prodigy needs prodigyopt (use learning_rate 1 with it).",
        choices=OPTIMIZERS,
    )
    offload_optimizer: bool = _key(
        False, "Hold the optimizer and float32 copies of what it trains in system memory.", free=True
    )
    beta1: float = _key(0.9, "Decay of the average of gradients.", low=0.0, high=0.9999)
    beta2: float = _key(0.999, "Decay of the average of squared gradients.", low=0.0, high=0.99999)
    weight_decay: float = _key(0.01, "Weight decay.", low=0.0, high=1.0)
    ema: float = _key(
        0.0,
        "Decay of moving averages of the weights, such as 0.999, which are then what is saved; 0 is none.",
        low=0.0,
        high=0.99999,
    )
    schedule: str = _key(
        "linear",
        f"How the learning rate falls; cosine_with_restarts goes to {RESTART_FLOOR:g} in each period, also "
        "from a lower rate.",
        choices=tuple(SCHEDULES),
    )
    warmup: int = _key(0, "Steps in which the learning rate rises.", low=0)
    steps: int = _key(2000, "Optimizer steps.", low=1, high=10_000_000)
    epochs: int = _key(
        0, "Passes over the dataset, in place of steps; 0 counts steps.", low=0, high=1_000_000
    )
    batch_size: int = _key(1, "Clips per forward pass, all of one bucket.", low=1, high=1024)
    gradient_accumulation: int = _key(1, "Forward passes per optimizer step.", low=1, high=4096)
    max_grad_norm: float = _key(1.0, "Largest norm of the gradient; 0 does not clip.", low=0.0)
    sigma_sampling: str = _key(
        "shifted_logit_normal", "How noise levels are drawn.", choices=("shifted_logit_normal", "uniform")
    )
    sigma_shift: str = _key(
        "tokens",
        "Mean of the logit in shifted_logit_normal: tokens is by the size and length of each clip, a number "
        "such as 1.5 is for all clips.",
    )
    sigma_std: float = _key(1.0, "Spread of shifted_logit_normal.", low=0.0)
    sigma_eps: float = _key(
        1e-3, "Noise levels below this are reflected in shifted_logit_normal.", low=0.0, high=0.499
    )
    uniform_prob: float = _key(0.1, "Share of uniform noise levels in it.", low=0.0, high=1.0)
    sigma_min: float = _key(0.0, "Lowest noise level of uniform.", low=0.0, high=1.0)
    sigma_max: float = _key(1.0, "Highest noise level of uniform.", low=0.0, high=1.0)
    shared_sigma: bool = _key(False, "Use the video's noise level for the audio too.")
    video_loss_weight: float = _key(1.0, "Weight of the video loss.", low=0.0)
    audio_loss_weight: float = _key(1.0, "Weight of the audio loss.", low=0.0)
    caption_dropout: float = _key(0.0, "How often the caption is empty.", low=0.0, high=1.0)
    caption_dropout_video: float = _key(
        0.0, "How often the caption is empty for the video alone.", low=0.0, high=1.0
    )
    caption_dropout_audio: float = _key(
        0.0, "How often the caption is empty for the audio alone.", low=0.0, high=1.0
    )
    gradient_checkpointing: bool = _key(True, "Compute activations again instead of holding them.")
    activation_offload: bool = _key(
        False, "With gradient_checkpointing: what is held of activations waits in system memory.", free=True
    )
    mixed_precision: str = _key("auto", "auto: bf16 on CUDA, else no.", choices=("auto", "bf16", "no"))
    seed: int = _key(42, "Seed of initial weights, order, noise and conditions.", low=0, high=2**63 - 1)
    official: bool = _key(
        False,
        "Officially: noise in the number format of the cache, first frames of LTX-2.5 unmarked.",
    )
    device: str = _key("", "Device [default: cuda if there is one].", free=True)
    save_every: int = _key(250, "Steps between saves; a stopped run resumes from the last.", low=1, free=True)
    save_every_epochs: int = _key(
        0, "Passes over the dataset between saves, in place of save_every; 0 counts steps.", low=0, free=True
    )
    keep_last: int = _key(
        0, "How many saved files stay next to the final one; 0 deletes none.", low=0, free=True
    )
    save_minutes: float = _key(0.0, "Also save after so many minutes; 0 does not.", low=0.0, free=True)
    save_precision: str = _key(
        "bf16", "Number format of saved weights.", choices=("bf16", "float32"), free=True
    )
    validation_every: int = _key(250, "Steps between validation losses; 0 is never.", low=0, free=True)
    validation_dataset: str = _key(
        "", "Encoded held-out clips [default: the first four clips of the dataset].", free=True
    )
    log: tuple[str, ...] = _key(
        (), "Also log to tensorboard or wandb, which must be installed; log.jsonl is always there.", free=True
    )
    preview_prompts: tuple[str, ...] = _key((), "Prompts of previews; none makes no previews.", free=True)
    preview_every: int = _key(250, "Steps between previews; the first is before training.", low=1, free=True)
    preview_options: tuple[str, ...] = _key(
        (), "Options of previews as KEY=VALUE, by their names in Python, such as width=512.", free=True
    )
    preview_seed: int = _key(0, "Seed of the first preview; the others count on.", low=0, free=True)

    def __post_init__(self) -> None:
        for one in fields(self):
            _check(one.name, getattr(self, one.name), one.metadata)
        if not self.dataset:
            raise ValueError("dataset is missing: name the folder that ltx2 dataset wrote")
        if not self.learning_rate:
            raise ValueError("learning_rate must be above 0")
        if self.activation_offload and not self.gradient_checkpointing:
            raise ValueError("activation_offload needs gradient_checkpointing")

    def lasting(self) -> dict[str, Any]:
        """The settings that change the weights, as JSON values: those that a resumed run must share.

        Paths of dataset, models and LoRAs are not among them, since their contents are compared by digests.
        """
        return self._lasting(asdict(self))

    def lasting_defaults(self) -> dict[str, Any]:
        """The defaults of :meth:`lasting`, which a run had for settings that came after it was begun."""
        return self._lasting({one.name: one.default for one in fields(self)})

    def _lasting(self, values: Mapping[str, Any]) -> dict[str, Any]:
        free = {one.name for one in fields(self) if one.metadata.get("free")}
        text = json.dumps({name: value for name, value in values.items() if name not in free})
        lasting: dict[str, Any] = json.loads(text)
        return lasting


@dataclass(frozen=True, kw_only=True)
class LoraSettings(TrainSettings):
    """All settings of a LoRA run."""

    output_dir: str = _key("lora_run", "Folder of the run: weights, state, log, previews.", free=True)
    rank: int = _key(32, "Rank of each pair of matrices.", low=1, high=4096)
    alpha: float = _key(0.0, "Scale of the LoRA times rank; 0 is the rank, so a scale of 1.", low=0.0)
    targets: tuple[str, ...] = _key(
        (),
        f"Layers: presets ({', '.join((*PRESETS, *TEXT_PRESETS))}), ends of names such as attn1.to_k, or "
        "regex:PATTERN [default: attention, or the preset of the only stream].",
    )
    kind: str = _key(
        "lora",
        "lora; dora, which also trains the magnitudes of columns; or lokr, a Kronecker product.",
        choices=("lora", "dora", "lokr"),
    )
    rank_stabilized: bool = _key(False, "rsLoRA: scale by alpha / sqrt(rank).")
    dropout: float = _key(0.0, "Share of the inputs of a LoRA that are zero in training.", low=0.0, high=0.99)
    init_lora: str = _key(
        "", "Start from this LoRA file, which must have the same layers and rank.", free=True
    )
    preset_loras: tuple[str, ...] = _key(
        (),
        "FILE[:STRENGTH] of LoRAs that are merged into the model while this one is trained (differential "
        "training); use both together afterwards.",
        free=True,
    )
    blocks_to_swap: int = _key(
        0,
        "Blocks whose weights lie in system memory and are copied when they run (needs "
        "gradient_checkpointing); ltx2 plan --train says how many.",
        low=0,
        high=1000,
        free=True,
    )
    max_memory: str = _key(
        "",
        "Memory of the GPU, such as 24GB: chooses rank, optimizer, blocks_to_swap and activation_offload for "
        "the clips of the dataset, except those that are written.",
        free=True,
    )
    key_style: str = _key(
        "official",
        "Names in saved files: official for ComfyUI and this package, bare without prefix, kohya.",
        choices=("official", "bare", "kohya"),
        free=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks_to_swap and not self.gradient_checkpointing:
            raise ValueError("blocks_to_swap needs gradient_checkpointing")
        if self.key_style == "kohya" and self.kind != "lora":
            raise ValueError(f"key_style=kohya is for kind=lora; {self.kind} is saved with official names")

    @property
    def lora_alpha(self) -> float:
        return self.alpha or float(self.rank)


@dataclass(frozen=True, kw_only=True)
class FullSettings(TrainSettings):
    """All settings of a run that trains the weights of the transformer themselves."""

    output_dir: str = _key("full_run", "Folder of the run: weights, state, log, previews.", free=True)
    learning_rate: float = _key(1e-5, "Highest learning rate.", low=0.0, high=1.0)
    parameters: tuple[str, ...] = _key(
        (), "Regular expressions: only parameters in whose name one occurs are trained [default: all]."
    )
    weights: str = _key(
        "float32",
        "float32; bf16, with float32 copies that the optimizer changes; or bf16_rounded, which rounds at "
        "random so that small changes are not lost (AdamW alone, least memory).",
        choices=("float32", "bf16", "bf16_rounded"),
    )
    sharding: str = _key(
        "ddp",
        "With several processes (torchrun): ddp holds all weights in each, fsdp a share of every block.",
        choices=("ddp", "fsdp"),
        free=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights == "bf16_rounded" and self.optimizer != "adamw":
            raise ValueError(f"weights=bf16_rounded is for optimizer=adamw, not {self.optimizer}")
        if self.weights == "bf16_rounded" and self.offload_optimizer:
            raise ValueError("weights=bf16_rounded has no copies to offload: use weights=bf16")
        if self.sharding == "fsdp" and (self.weights != "float32" or self.offload_optimizer or self.ema):
            raise ValueError("sharding=fsdp trains float32 weights, without ema and offload_optimizer")
        if self.sharding == "fsdp" and self.optimizer not in ("adamw", "adafactor"):
            raise ValueError(f"sharding=fsdp is for optimizer=adamw or adafactor, not {self.optimizer}")


def _check(name: str, value: Any, facts: Mapping[str, Any]) -> None:
    """Raise ValueError if a value is none of the choices or out of range."""
    if "choices" in facts and value not in facts["choices"]:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(facts['choices'])}")
    low, high = facts.get("low"), facts.get("high")
    # Written so that NaN fails too.
    if low is not None and not (low <= value and (high is None or value <= high) and value != float("inf")):
        upper = "" if high is None else f" to {high:g}"
        raise ValueError(f"{name}={value!r} must be {'from ' if upper else 'at least '}{low:g}{upper}")
