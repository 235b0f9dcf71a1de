"""What the keys of other trainers are called here, by the path of the key with dots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

Dialect = Literal["ltx-trainer", "ai-toolkit", "musubi"]


class Key(NamedTuple):
    """Where a key of another trainer goes: a setting of a run, or an option of ``ltx2 dataset``."""

    name: str
    """Name here; of an option of ltx2 dataset with its dashes."""
    convert: Callable[[Any], Any] = lambda value: value


def _optimizer(value: Any) -> str:
    plain = str(value).lower().replace("_", "").replace("-", "").rpartition(".")[2]
    known = {
        "adamw8bit": "adamw8bit",
        "pagedadamw8bit": "adamw8bit",
        "adafactor": "adafactor",
        "muon": "muon",
    }
    return "prodigy" if plain.startswith("prodigy") else known.get(plain, "adamw")


def _schedule(value: Any) -> str:
    return {"constant_with_warmup": "constant", "cosine_annealing": "cosine"}.get(str(value), str(value))


def _conditions(value: Any) -> list[str]:
    return [f"first_frame:{float(value):g}"] if value else []


def _i2v(value: Any) -> str:
    return "i2v" if value else "t2v"


def _listed(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    return [str(one.get("prompt", "")) if isinstance(one, dict) else str(one) for one in texts]


def _precision(value: Any) -> str:
    return "float32" if str(value) in ("float", "float32", "fp32") else "bf16"


def _mixed(value: Any) -> str:
    return "no" if str(value) in ("no", "fp32", "float32") else "bf16"


def _timesteps(value: Any) -> str:
    return "uniform" if str(value) in ("uniform", "linear") else "shifted_logit_normal"


def _kind(value: Any) -> str:
    return {"lokr": "lokr", "dora": "dora"}.get(str(value).lower(), "lora")


def _number(value: Any) -> int:
    return int(value or 0)


def _first(value: Any) -> str:
    return str(value[0] if isinstance(value, list) and value else value)


def _checkpoint(value: Any) -> list[str]:
    return [str(value)]


TABLES: Mapping[Dialect, Mapping[str, Key]] = {
    "ltx-trainer": {
        "model.model_path": Key("checkpoints", _checkpoint),
        "model.text_encoder_path": Key("text_encoder"),
        "model.load_checkpoint": Key("init_lora"),
        "lora.rank": Key("rank"),
        "lora.alpha": Key("alpha", float),
        "lora.dropout": Key("dropout", float),
        "lora.target_modules": Key("targets", _listed),
        "training_strategy.first_frame_conditioning_p": Key("conditions", _conditions),
        "optimization.learning_rate": Key("learning_rate", float),
        "optimization.steps": Key("steps"),
        "optimization.batch_size": Key("batch_size"),
        "optimization.gradient_accumulation_steps": Key("gradient_accumulation"),
        "optimization.max_grad_norm": Key("max_grad_norm", float),
        "optimization.optimizer_type": Key("optimizer", _optimizer),
        "optimization.scheduler_type": Key("schedule", _schedule),
        "optimization.enable_gradient_checkpointing": Key("gradient_checkpointing", bool),
        "acceleration.mixed_precision_mode": Key("mixed_precision", _mixed),
        "data.preprocessed_data_root": Key("dataset"),
        "validation.prompts": Key("preview_prompts", _listed),
        "validation.samples": Key("preview_prompts", _listed),
        "validation.interval": Key("preview_every"),
        "validation.seed": Key("preview_seed"),
        "checkpoints.interval": Key("save_every"),
        "checkpoints.keep_last_n": Key("keep_last", lambda value: max(0, int(value))),
        "checkpoints.precision": Key("save_precision", _precision),
        "flow_matching.timestep_sampling_mode": Key("sigma_sampling", _timesteps),
        "flow_matching.timestep_sampling_params.std": Key("sigma_std", float),
        "flow_matching.timestep_sampling_params.uniform_prob": Key("uniform_prob", float),
        "flow_matching.timestep_sampling_params.eps": Key("sigma_eps", float),
        "seed": Key("seed"),
        "output_dir": Key("output_dir"),
    },
    "ai-toolkit": {
        "model.name_or_path": Key("checkpoints", _checkpoint),
        "model.te_name_or_path": Key("text_encoder"),
        "network.type": Key("kind", _kind),
        "network.linear": Key("rank"),
        "network.dropout": Key("dropout", float),
        "network.pretrained_lora_path": Key("init_lora"),
        "train.lr": Key("learning_rate", float),
        "train.steps": Key("steps"),
        "train.batch_size": Key("batch_size"),
        "train.gradient_accumulation": Key("gradient_accumulation"),
        "train.gradient_accumulation_steps": Key("gradient_accumulation"),
        "train.gradient_checkpointing": Key("gradient_checkpointing", bool),
        "train.optimizer": Key("optimizer", _optimizer),
        "train.optimizer_params.weight_decay": Key("weight_decay", float),
        "train.lr_scheduler": Key("schedule", _schedule),
        "train.max_grad_norm": Key("max_grad_norm", float),
        "train.dtype": Key("mixed_precision", _mixed),
        "train.ema_config.ema_decay": Key("ema", float),
        "train.audio_loss_multiplier": Key("audio_loss_weight", float),
        "save.save_every": Key("save_every"),
        "save.max_step_saves_to_keep": Key("keep_last"),
        "save.dtype": Key("save_precision", _precision),
        "sample.prompts": Key("preview_prompts", _listed),
        "sample.samples": Key("preview_prompts", _listed),
        "sample.sample_every": Key("preview_every"),
        "sample.seed": Key("preview_seed"),
        "datasets.0.do_i2v": Key("task", _i2v),
        "datasets.0.caption_dropout_rate": Key("caption_dropout", float),
        "datasets.0.folder_path": Key("SOURCE"),
        "datasets.0.caption_ext": Key("--caption-ext"),
        "datasets.0.fps": Key("--fps"),
        "trigger_word": Key("--trigger"),
        "training_folder": Key("output_dir"),
    },
    "musubi": {
        "ltx2_checkpoint": Key("checkpoints", _checkpoint),
        "gemma_root": Key("text_encoder"),
        "network_dim": Key("rank"),
        "network_alpha": Key("alpha", float),
        "network_dropout": Key("dropout", float),
        "network_weights": Key("init_lora"),
        "base_weights": Key("preset_loras", _listed),
        "learning_rate": Key("learning_rate", float),
        "audio_lr": Key("audio_learning_rate", float),
        "max_train_steps": Key("steps"),
        "max_train_epochs": Key("epochs"),
        "gradient_accumulation_steps": Key("gradient_accumulation"),
        "gradient_checkpointing": Key("gradient_checkpointing", bool),
        "max_grad_norm": Key("max_grad_norm", float),
        "optimizer_type": Key("optimizer", _optimizer),
        "lr_scheduler": Key("schedule", _schedule),
        "lr_warmup_steps": Key("warmup", _number),
        "ema_decay": Key("ema", float),
        "mixed_precision": Key("mixed_precision", _mixed),
        "blocks_to_swap": Key("blocks_to_swap", _number),
        "seed": Key("seed"),
        "output_dir": Key("output_dir"),
        "save_every_n_steps": Key("save_every"),
        "save_every_n_epochs": Key("save_every_epochs"),
        "video_loss_weight": Key("video_loss_weight", float),
        "audio_loss_weight": Key("audio_loss_weight", float),
        "first_frame_conditioning_p": Key("conditions", _conditions),
        "caption_dropout_rate": Key("caption_dropout", float),
        "timestep_sampling": Key("sigma_sampling", _timesteps),
        "general.caption_extension": Key("--caption-ext"),
        "datasets.0.caption_extension": Key("--caption-ext"),
        "datasets.0.video_directory": Key("SOURCE"),
        "datasets.0.image_directory": Key("SOURCE"),
        "datasets.0.audio_directory": Key("SOURCE"),
        "datasets.0.video_jsonl_file": Key("SOURCE"),
        "datasets.0.image_jsonl_file": Key("SOURCE"),
        "datasets.0.target_fps": Key("--fps"),
    },
}
"""Trainer -> path of a key in its configuration -> the key here."""

REASONS: Mapping[str, str] = {
    "network.linear_alpha": "that trainer ignores it: alpha is the rank, as it is here without alpha",
    "network.conv": "LTX-2 has no convolutions in its transformer",
    "model.quantize": "name a checkpoint in fp8 or int8, which stays as it is stored",
    "acceleration.quantization": "name a checkpoint in fp8 or int8, which stays as it is stored",
    "fp8_base": "name a checkpoint in fp8, which stays as it is stored",
    "int8_base": "name a checkpoint in int8, which stays as it is stored",
    "nf4_base": "name a checkpoint of four bits, in NVFP4 or GGUF Q4, which stays as it is stored",
    "model.low_vram": "see ltx2 plan --train",
    "train.content_or_style": "noise levels are those of the official trainer: sigma_sampling",
    "train.timestep_type": "noise levels are those of the official trainer: sigma_sampling",
    "train.noise_scheduler": "there is one, flow matching",
    "network_module": "a LoRA, DoRA or LoKr by kind",
    "sdpa": "the attention of PyTorch is used",
    "flash_attn": "the attention of PyTorch is used",
    "ltx2_mode": "streams follow from the clips: one without audio trains the video alone",
    "max_data_loader_n_workers": "encoded clips are read one by one",
    "data.num_dataloader_workers": "encoded clips are read one by one",
    "wandb": 'log = ["wandb"] sends the figures of log.jsonl there',
    "train.train_text_encoder": "text encoders are not trained",
    "validation.guidance_scale": "preview_options: cfg=...",
    "sample.guidance_scale": "preview_options: cfg=...",
    "validation.inference_steps": "preview_options: steps=...",
    "sample.sample_steps": "preview_options: steps=...",
    "sample.width": "preview_options: width=...",
    "sample.height": "preview_options: height=...",
    "sample.num_frames": "preview_options: num_frames=...",
    "validation.video_dims": "preview_options: width=..., height=..., num_frames=...",
    "datasets.0.mask_path": "loss masks are not built; video_mask marks known content",
    "datasets.0.num_repeats": "the column repeats of a csv or jsonl file",
    "datasets.0.frame_extraction": "ltx2 dataset --chunks, --slide or --uniform; head is the default",
    "datasets.0.frame_stride": "ltx2 dataset --slide",
    "datasets.0.frame_sample": "ltx2 dataset --uniform",
}
"""Why a key has no counterpart; others have none without a reason."""
