"""Configurations of other trainers, as settings of a run here."""

from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner

from ltx2_core.cli.main import main
from ltx2_core.trainer.import_tables import TABLES
from ltx2_core.trainer.importing import import_config
from ltx2_core.trainer.settings import FullSettings, LoraSettings
from ltx2_core.trainer.settings_file import read_settings

AI_TOOLKIT = """
job: extension
config:
  name: mine
  process:
    - type: sd_trainer
      trigger_word: zorb
      network: {type: lora, linear: 16, linear_alpha: 8}
      save: {dtype: float16, save_every: 200, max_step_saves_to_keep: 4}
      datasets:
        - folder_path: /clips
          caption_ext: txt
          caption_dropout_rate: 0.05
          do_i2v: true
          fps: 24
      train: {batch_size: 1, steps: 1500, lr: 1.0e-4, optimizer: adamw8bit, ema_config: {ema_decay: 0.99}}
      model: {name_or_path: ltx.safetensors, quantize: true}
      sample: {sample_every: 200, prompts: [a zorb, a red zorb], guidance_scale: 4}
"""
LTX_TRAINER = """
model: {model_path: ltx.safetensors, training_mode: lora}
lora: {rank: 32, alpha: 32, target_modules: [to_k, to_q]}
training_strategy: {name: text_to_video, first_frame_conditioning_p: 0.1}
optimization: {learning_rate: 2.0e-4, steps: 3000, optimizer_type: adamw, scheduler_type: linear}
data: {preprocessed_data_root: cache_dir, num_dataloader_workers: 2}
checkpoints: {interval: 250, keep_last_n: -1}
"""
MUSUBI = """
ltx2_checkpoint = "ltx.safetensors"
network_dim = 64
network_alpha = 32
learning_rate = 1e-4
optimizer_type = "prodigyopt.Prodigy"
max_train_steps = 1600
blocks_to_swap = 12
fp8_base = true
"""


def write(tmp_path, text: str, name: str):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_ai_toolkit(tmp_path) -> None:
    found = import_config(write(tmp_path, AI_TOOLKIT, "run.yaml"))
    expected = {"rank": 16, "steps": 1500, "learning_rate": 1e-4, "optimizer": "adamw8bit", "ema": 0.99}
    expected |= {"task": "i2v", "keep_last": 4, "preview_prompts": ["a zorb", "a red zorb"], "kind": "lora"}
    assert (found.dialect, found.command) == ("ai-toolkit", "lora")
    assert expected.items() <= found.settings.items()
    assert found.dataset == {"SOURCE": "/clips", "--caption-ext": "txt", "--fps": 24, "--trigger": "zorb"}
    assert "alpha is the rank" in found.left["network.linear_alpha"]
    assert "stays as it is stored" in found.left["model.quantize"]
    assert "alpha" not in found.settings


def test_ltx_trainer(tmp_path) -> None:
    found = import_config(write(tmp_path, LTX_TRAINER, "run.yml"))
    assert found.settings["conditions"] == ["first_frame:0.1"]
    assert found.settings["targets"] == ["to_k", "to_q"]
    # -1 keeps all there, 0 does here.
    assert (found.settings["dataset"], found.settings["keep_last"]) == ("cache_dir", 0)
    full = LTX_TRAINER.replace("training_mode: lora", "training_mode: full")
    found = import_config(write(tmp_path, full, "full.yaml"))
    assert found.command == "full"
    assert found.left["lora.rank"] == "rank is a setting of ltx2 train lora alone"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="toml needs Python 3.11")
def test_what_is_printed_is_a_configuration(tmp_path) -> None:
    done = CliRunner().invoke(main, ["train", "import", str(write(tmp_path, MUSUBI, "run.toml"))])
    assert done.exit_code == 0, done.output
    assert "#   fp8_base: name a checkpoint in fp8" in done.output
    settings = read_settings(write(tmp_path, done.output, "ours.toml"), {}, LoraSettings)
    assert (settings.rank, settings.alpha, settings.blocks_to_swap, settings.optimizer) == (
        64,
        32,
        12,
        "prodigy",
    )


def test_every_key_of_the_tables_exists_here() -> None:
    options = {"SOURCE"} | {flag for param in main.get_command(None, "dataset").params for flag in param.opts}
    known = {*LoraSettings.__dataclass_fields__, *FullSettings.__dataclass_fields__}
    for table in TABLES.values():
        assert {key.name for key in table.values()} <= known | options


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("a: 1", "run.yaml", "is no configuration of ltx-trainer"),
        ("a: [", "run.yaml", "not yaml"),
        ("- 1", "run.yaml", "must hold keys and values"),
        ("x", "run.txt", "must be a yaml, toml or json file"),
        (json.dumps({"network_dim": 0}), "run.json", "rank=0 must be from 1"),
        (json.dumps({"network_dim": 4, "learning_rate": "fast"}), "run.json", "learning_rate='fast'"),
    ],
)
def test_other_files_are_refused(tmp_path, text, name, message) -> None:
    done = CliRunner().invoke(main, ["train", "import", str(write(tmp_path, text, name))])
    assert done.exit_code == 2
    assert message in done.output
