"""``ltx2 make-tiny`` writes a whole set that works, or nothing."""

from __future__ import annotations

import math

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file

from ltx2_core.cli.main import main
from ltx2_core.loading import Component, open_checkpoint, open_lora
from ltx2_core.tiny import embedded_dir, embedded_set
from ltx2_core.tiny import write as writing
from ltx2_core.tiny.write import TinySet, write_tiny_set


def make(*arguments: object):
    return CliRunner().invoke(main, ["make-tiny", *map(str, arguments)])


@pytest.fixture(scope="module", params=["2.0", "2.3", "2.5"])
def made(request, tmp_path_factory) -> tuple[str, TinySet]:
    folder = tmp_path_factory.mktemp("models")
    result = make(folder, "--generation", request.param, "--dtype", "float32", "--seed", 3)
    assert result.exit_code == 0, result.output
    return request.param, TinySet.in_folder(folder, request.param)


def test_the_set_lies_in_the_folders_of_comfyui_and_nothing_else_is_left(made):
    generation, files = made
    folder = files.checkpoint.parents[1]
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    gemma = f"text_encoders/{files.text_encoder.name}"
    more = (
        "latent_upscale_models/ltx2-tiny-temporal-upscaler-x2.safetensors",
        "model_patches/ltx2-tiny-duration-head.safetensors",
        "vae/ltx2-tiny-2.5-video-vae.safetensors",
    )
    of_25 = set(more) if generation == "2.5" else set()
    assert found == of_25 | {
        f"checkpoints/ltx2-tiny-{generation}.safetensors",
        "latent_upscale_models/ltx2-tiny-spatial-upscaler-x2.safetensors",
        "loras/ltx2-tiny-lora.safetensors",
        f"{gemma}/config.json",
        f"{gemma}/model.safetensors",
        f"{gemma}/tokenizer.json",
        f"{gemma}/tokenizer_config.json",
    }
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_every_component_loads_and_the_lora_fits(made):
    generation, files = made
    checkpoint = open_checkpoint(files.checkpoint)
    assert checkpoint.generation == generation
    for component in checkpoint.components:
        for name, tensor in checkpoint.load(component).state_dict().items():
            assert tensor.dtype == torch.float32
            assert tensor.isfinite().all(), name
    open_checkpoint(files.upsampler).load(Component.UPSAMPLER)
    report = checkpoint.lora_report(Component.TRANSFORMER, open_lora(files.lora))
    assert len(report.matched) == 16
    assert not report.unmatched
    assert not report.shape_mismatched


def test_the_projection_fits_the_text_encoder(made):
    _, files = made
    extractor = open_checkpoint(files.checkpoint).load(Component.TEXT_PROJECTION)
    with safe_open(files.text_encoder / "model.safetensors", "pt") as file:
        hidden = file.get_slice("model.embed_tokens.weight").get_shape()[1]
        layers = len({name.split(".")[2] for name in file.keys() if ".layers." in name})  # noqa: SIM118
    assert (extractor.hidden_size, extractor.num_states) == (hidden, layers + 1)


def test_tables_and_gates_are_away_from_zero(made):
    _, files = made
    for name, tensor in load_file(files.checkpoint).items():
        if "scale_shift_table" in name or "to_gate_logits.weight" in name:
            assert tensor.std() > 0.05, name


def test_frames_and_audio_are_finite_and_not_saturated(made):
    _, files = made
    checkpoint = open_checkpoint(files.checkpoint)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        latent = torch.randn(1, 128, 2, 3, 3, generator=generator)
        frames = checkpoint.load(Component.VIDEO_DECODER).decode(latent)
        mel = checkpoint.load(Component.AUDIO_DECODER)(torch.randn(1, 8, 8, 16, generator=generator))
        sound = checkpoint.load(Component.VOCODER)(mel)
        noise = torch.rand(1, 3, 9, 96, 96, generator=generator) * 2 - 1
        encoded = checkpoint.load(Component.VIDEO_ENCODER).encode(noise)
    assert 0.1 < frames.std() < 1
    assert (frames.abs() > 1).float().mean() < 0.05
    assert 0.02 < sound.std() < 0.5
    assert (sound.abs() > 0.99).float().mean() < 0.01
    assert 0.3 < encoded.std() < 3


def test_the_2_3_vocoder_has_the_true_filters_and_transforms(tmp_path):
    config = writing.tiny_config("2.3")
    tensors = writing.checkpoint_tensors(config, seed=0)
    for name, tensor in tensors.items():
        if name.endswith(".filter"):
            assert tensor.sum() == pytest.approx(1)
            assert torch.allclose(tensor, tensor.flip(-1))
    tone = torch.sin(2 * math.pi * 32 * torch.arange(512) / 512)
    spectrum = (tensors["vocoder.mel_stft.stft_fn.forward_basis"][:, 0] @ tone).view(2, 257).norm(dim=0)
    assert spectrum.argmax() == 32
    mel = tensors["vocoder.mel_stft.mel_basis"]
    assert mel.shape == (64, 257)
    assert (mel >= 0).all()
    assert (mel.sum(dim=1) > 0).all()


def test_the_same_seed_gives_the_same_tensors_and_another_seed_others(tmp_path):
    first, again, other = (write_tiny_set(tmp_path / str(i), seed=seed) for i, seed in enumerate((5, 5, 6)))
    a, b, c = (load_file(files.checkpoint) for files in (first, again, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(*(t["model.diffusion_model.proj_out.weight"] for t in (a, c)))


def test_making_models_leaves_the_global_random_state_alone(tmp_path):
    before = torch.random.get_rng_state()
    write_tiny_set(tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_interruption_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "lora_tensors", fail)
    with pytest.raises(KeyboardInterrupt):
        write_tiny_set(tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    result = make(tmp_path / "file" / "models")
    assert result.exit_code == 2
    assert "cannot write models to" in result.output
    assert "choose another folder" in result.output


def test_unknown_generations_are_refused(tmp_path):
    assert make(tmp_path, "--generation", "3.0").exit_code == 2
    with pytest.raises(ValueError, match=r"2\.0, 2\.3, 2\.5, ltxv-2b; got '3\.0'"):
        write_tiny_set(tmp_path, generation="3.0")


def test_the_embedded_set_is_small_and_complete():
    files = embedded_set()
    size = sum(path.stat().st_size for path in embedded_dir().rglob("*") if path.is_file())
    assert size < 40_000_000
    assert open_checkpoint(files.checkpoint).generation == "2.3"
    assert all(path.exists() for path in (files.text_encoder, files.upsampler, files.distilled, files.edges))


def test_the_set_of_2_5_has_the_diffusion_vae_beside_it(tmp_path):
    assert make(tmp_path, "--generation", "2.5").exit_code == 0
    file = open_checkpoint(tmp_path / "vae" / "ltx2-tiny-2.5-video-vae.safetensors")
    assert file.has_diffusion_decoder
    assert file.generation == "2.5"
    file.check(Component.VIDEO_DECODER)
    file.check(Component.VIDEO_ENCODER)
