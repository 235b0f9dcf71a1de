"""Gradient steps of the video autoencoder on another device use no tensors of the CPU."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode

from ltx2_core import config as cfg
from ltx2_core.tiny.settings import tiny_config
from ltx2_core.training import loop
from ltx2_core.training.autoencoders import video_vae
from ltx2_core.training.autoencoders.video_code import VideoCode, principal_code
from ltx2_core.training.loop import LoopOptions, step_generator
from ltx2_core.training.world import render_frames, sample_scene
from ltx2_core.training.world.batches import ClipSize, draw_seeds, video_batch

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SIZE = ClipSize(batch=6, frames=17, width=32, height=32)
SCENES = (0, 1, 2, 3)
QUIET = LoopOptions(progress=False, log_every_s=0)


@pytest.fixture(scope="module")
def code() -> VideoCode:
    return principal_code(128, sizes=(ClipSize(batch=24, frames=17, width=64, height=64),))


def config():
    return cfg.video_vae_config(tiny_config("2.3"))


def fake_frames() -> torch.Tensor:
    return video_batch(SCENES, frames=9, width=64, height=32, device=CUDA)


def on_cuda(code: VideoCode) -> tuple[video_vae.VideoVAE, VideoCode]:
    vae = video_vae.VideoVAE(config(), device=CUDA)
    parts = (code.mean, code.basis, code.deviation, code.amplitude)
    return vae, VideoCode(*(torch.empty(part.shape) for part in parts)).to(CUDA)


def test_frames_are_rendered_on_the_cpu_by_default() -> None:
    for seed in range(12):
        scene = sample_scene(seed)
        assert torch.equal(render_frames(scene, 9, 64, 48, CPU), render_frames(scene, 9, 64, 48))


def test_clips_are_rendered_on_the_requested_device() -> None:
    with FakeTensorMode():
        frames = fake_frames()
        assert frames.device == CUDA
        assert frames.shape == (4, 3, 9, 32, 64)
        cut = video_vae.cut_to_next(frames, 0.5, torch.Generator())
        assert cut.device == CUDA
        assert cut.shape == (3, 3, 9, 32, 64)


def test_a_step_of_the_encoder_mixes_no_devices(code) -> None:
    with FakeTensorMode():
        vae, moved = on_cuda(code)
        error = video_vae.encoder_error(vae, moved, fake_frames())
        assert error.device == CUDA
        assert error.requires_grad
        with pytest.raises(RuntimeError, match="two different devices"):
            video_vae.encoder_error(vae, moved.to(CPU), fake_frames())


@pytest.mark.parametrize("encoded", [0, 2, 4])
def test_a_step_of_the_decoder_mixes_no_devices(code, encoded) -> None:
    with FakeTensorMode():
        vae, moved = on_cuda(code)
        error = video_vae.decoder_error(vae, moved, fake_frames(), torch.Generator(), encoded=encoded)
        assert error.device == CUDA
        assert error.shape == (4, 3, 9, 32, 64)
        assert error.requires_grad


def test_a_step_of_the_decoder_gets_noisy_latents_of_the_code_or_of_the_encoder(code) -> None:
    vae = video_vae.new_video_vae(config(), code, 0)
    frames = video_batch(SCENES, frames=9, width=32, height=32)
    noise = torch.randn(4, 128, 2, 1, 1, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        latents = torch.cat((vae.encode(frames[:3]), code.encode(frames[3:])))
        expected = vae.decode(latents + video_vae.LATENT_NOISE * noise) - frames
        generator = torch.Generator().manual_seed(5)
        error = video_vae.decoder_error(vae, code, frames, generator, encoded=3)
    torch.testing.assert_close(error, expected, atol=1e-4, rtol=1e-4)


def test_a_share_of_clips_changes_to_the_next_scene_only_with_cuts() -> None:
    recipe = video_vae.VideoVAERecipe(total_steps=1, sizes=(SIZE,))

    def drawn(seed: int, cuts: float) -> torch.Tensor:
        return video_vae.draw_frames(recipe, torch.Generator().manual_seed(seed), CPU, cuts=cuts)

    generator = torch.Generator().manual_seed(0)
    torch.randint(1, (), generator=generator)
    whole = video_batch(draw_seeds(generator, 6), frames=17, width=32, height=32)
    assert torch.equal(drawn(0, 0.0), whole)
    changed = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        torch.randint(1, (), generator=generator)
        clips = video_batch(draw_seeds(generator, 7), frames=17, width=32, height=32)
        for index, clip in enumerate(drawn(seed, 0.5)):
            of_first, of_next = ((clip == other).all(0).all(-1).all(-1) for other in clips[index : index + 2])
            assert bool(of_first[0])
            last = int(of_first.long().cumprod(0).sum())
            assert last in (1, 9, 17)
            assert bool((of_first | of_next).all())
            changed += last < 17
    assert 40 < changed < 80


def test_in_decibels_the_loss_is_the_psnr_of_the_batch(code, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(video_vae, "held_out_psnr", lambda *args, **kwargs: 0.0)
    vae = video_vae.new_video_vae(config(), code, 0)
    recipe = video_vae.VideoVAERecipe(total_steps=1, sizes=(SIZE,), cuts=0.5, decibels=True)
    generator = step_generator(0, 0)
    frames = video_vae.draw_frames(recipe, generator, CPU, cuts=0.5)
    with torch.no_grad():
        error = video_vae.decoder_error(vae, code, frames, generator)
    expected = (error.square().mean(dim=(1, 2, 3, 4)) + 1e-4).log().mean()
    history = video_vae.train_video_decoder(
        vae, code, tmp_path / "s.safetensors", recipe=recipe, options=QUIET
    )
    assert history.curves["loss"][0][1] == pytest.approx(float(expected), rel=1e-4)


def test_tensor_cores_are_enabled_within_training_only() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark
    with loop.tensor_cores(CPU):
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark) == before
    with loop.tensor_cores(CUDA):
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.benchmark
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark) == before


def test_a_run_limited_by_time_ends_in_time(code, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(video_vae, "held_out_psnr", lambda *args, **kwargs: 0.0)
    vae = video_vae.new_video_vae(config(), code, 0)
    size = ClipSize(batch=1, frames=9, width=32, height=32)
    recipe = video_vae.VideoVAERecipe(total_steps=100_000, sizes=(size,), seconds=2.0)
    state = tmp_path / "state.safetensors"
    history = video_vae.train_video_decoder(vae, code, state, recipe=recipe, encoded=True, options=QUIET)
    assert 2 < len(history.curves["loss"]) < 2000
