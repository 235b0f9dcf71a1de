"""The diffusion video VAE as a VAE of the host: whole, tiled, encoding, and the same as the host's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ltx2_core.loading import open_checkpoint
from ltx2_core.tiny.diffusion_vae import write_diffusion_vae
from ltx2_core.tiny.write import write_tiny_set

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def report(comfy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("diffusion_vae")
    file = folder / "vae.safetensors"
    tiny = write_tiny_set(folder, generation="2.3")
    write_diffusion_vae(file, open_checkpoint(tiny.checkpoint), dtype=torch.float32)
    run = subprocess.run(
        [sys.executable, str(HERE / "diffusion_vae.py"), str(HERE.parents[1]), str(file)],
        cwd=comfy_dir,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    parsed: dict[str, object] = json.loads(run.stdout.splitlines()[-1])
    return parsed


def test_tiles_of_the_hosts_node_are_exact(report: dict[str, object]) -> None:
    assert report["shape"] == [1, 17, 96, 192, 3]
    assert report["tiled"] <= 1e-5
    assert report["bytes"] >= 1 << 30
    # Read by hosts from 0.36 on.
    assert not report["begins with tiles"]
    assert report["VAEDecode"] <= 1e-5
    assert report["VAEDecodeTiled"] <= 1e-5


def test_a_clip_is_decoded_while_it_is_written(report: dict[str, object]) -> None:
    assert report["one part"] <= 1e-5
    # The noise of a clip in parts is another one.
    assert 1e-3 < report["two parts"] < 2


def test_the_seed_of_the_decode_node_changes_its_frames_alone(report: dict[str, object]) -> None:
    assert report["node"] == 0
    assert report["seeded"] > 0.01


def test_frames_and_latents_are_those_of_the_hosts_own_vae(report: dict[str, object]) -> None:
    if "core decode" not in report:
        pytest.skip("this host has no diffusion VAE of its own")
    assert report["core decode"] <= 2e-5
    assert report["core encode"] <= 2e-5
