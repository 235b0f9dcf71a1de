"""A dub: what conditions each stage, what of it is in the result, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.main import main
from ltx2_core.conditioning.reference import OwnAudio, ReferenceAudio
from ltx2_core.conditioning.state import empty_state
from ltx2_core.editing import Footage, dub
from ltx2_core.editing.dub import plan_dub
from ltx2_core.media import VideoWriter, read_metadata, read_video
from ltx2_core.sampling.guidance import Pass
from ltx2_core.sampling.inputs import ClipInputs
from ltx2_core.shapes import plan_clip
from ltx2_core.tiny import embedded_set
from ltx2_core.types import Numerics, TextContext

RATE = 16000


@pytest.fixture(scope="module")
def ic_loras(tiny_set, tmp_path_factory) -> dict[int, Path]:
    """The tiny LoRA as IC-LoRAs whose references are 1 and 2 times smaller than the clip."""
    folder, tensors = tmp_path_factory.mktemp("dub"), load_file(tiny_set.lora)
    for scale in (1, 2):
        metadata = {"reference_downscale_factor": str(scale)}
        save_file(tensors, folder / f"{scale}.safetensors", metadata=metadata)
    return {scale: folder / f"{scale}.safetensors" for scale in (1, 2)}


def pipeline_of(tiny_set, *loras: Path) -> LTX2Pipeline:
    return LTX2Pipeline(
        tiny_set.checkpoint,
        text_encoder=tiny_set.text_encoder,
        upscaler=tiny_set.upsampler,
        loras=loras,
        device="cpu",
        keep_loaded=True,
    )


def footage(
    frames: int = 12, height: int = 60, width: int = 70, *, seed: int = 0, tone: float = 300
) -> Footage:
    drawn = torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(seed))
    wave = 0.3 * torch.sin(2 * torch.pi * tone * torch.arange(round(RATE * frames / 8)) / RATE)
    return Footage(frames=drawn, fps=8.0, audio=(wave[None], RATE))


def dubbed(pipeline, source, **options):
    """The edit, and the generation that it was finished from."""
    sampled = []
    made = dub(pipeline, "hello", source, seed=5, on_sampled=sampled.append, **options)
    return made, sampled[0]


@pytest.mark.parametrize("follows", [False, True])
def test_reference_audio_is_next_to_the_clip_at_times_before_it(follows):
    clip = plan_clip(64, 64, frames=9, fps=8.0)
    reference = torch.randn(1, 8, 5, 16)
    state = ReferenceAudio(latent=reference, follows=follows).apply(empty_state(clip))
    texts = {Pass.CONDITIONAL: TextContext(torch.randn(1, 4, 8), torch.randn(1, 4, 8))}
    inputs = ClipInputs(
        state, state.latent, state.mask, texts, nag=None, numerics=Numerics.OFFICIAL, dtype=torch.float32
    )
    _, audio = inputs.modalities(state.latent, 0.5, (Pass.CONDITIONAL,))
    tokens = clip.audio_latents
    own, added = (slice(0, tokens), slice(tokens, None)) if follows else (slice(5, None), slice(0, 5))
    assert audio.tokens.shape[1] == tokens + 5
    assert audio.tokens[:, own].abs().max() == 0
    assert torch.equal(audio.tokens[0, added], reference[0].permute(1, 0, 2).flatten(1))
    assert audio.timesteps[:, own].min() == 0.5
    assert audio.timesteps[:, added].max() == 0
    assert audio.positions[:, :, added].max() < 0 <= audio.positions[:, :, own].min()
    # What the model returns for the clip is taken from the same place.
    marked = torch.arange(tokens + 5.0).view(1, -1, 1).expand(-1, -1, 128)
    result = inputs.latents(state.latent, None, marked).audio
    assert result[0, 0, :, 0].tolist() == torch.arange(tokens + 5.0)[own].tolist()


def test_own_audio_is_preserved_and_is_its_own_reference():
    state = empty_state(plan_clip(64, 64, frames=9, fps=8.0))
    audio = torch.randn_like(state.latent.audio)
    made = OwnAudio().apply(replace(state, latent=replace(state.latent, audio=audio)))
    assert made.mask.audio.max() == 0
    assert torch.equal(made.reference_audio, audio)
    assert made.reference_follows


@pytest.mark.parametrize(
    ("size", "scale", "planned"),
    [
        ((70, 60), 1, (128, 64)),
        ((70, 60), 2, (128, 128)),
        ((128, 64), 1, (128, 64)),
        ((129, 65), 1, (192, 128)),
    ],
)
def test_the_clip_holds_the_source_and_its_reference_in_both_stages(size, scale, planned):
    plan = plan_dub(footage(12, size[1], size[0]), scale, numerics=Numerics.OFFICIAL)
    assert (plan.clip.width, plan.clip.height, plan.clip.frames) == (*planned, 9)


@pytest.fixture(scope="module")
def pipeline(tiny_set, ic_loras):
    return pipeline_of(tiny_set, ic_loras[1])


@pytest.mark.parametrize("scale", [1, 2])
def test_a_dub_has_the_size_of_its_source_and_its_first_frames(tiny_set, ic_loras, scale):
    made, _ = dubbed(pipeline_of(tiny_set, ic_loras[scale]), footage())
    assert made.frames().shape == (9, 3, 60, 70)
    waveform, rate = made.audio()
    assert waveform.shape[1] == round(9 / 8 * rate)


def test_the_audio_is_that_of_the_first_stage(pipeline):
    plain, other = (
        dubbed(pipeline, footage(), stage2_sigmas=sigmas)[1].latents for sigmas in ([0.9, 0.4, 0], [0.5, 0])
    )
    assert torch.equal(plain.audio, other.audio)
    assert not torch.equal(plain.video, other.video)


def test_frames_and_voice_of_the_source_condition_the_dub(pipeline):
    plain = dubbed(pipeline, footage())[1].latents
    again = dubbed(pipeline, footage())[1].latents
    assert torch.equal(plain.video, again.video)
    assert torch.equal(plain.audio, again.audio)
    for other in (footage(seed=1), footage(tone=900)):
        assert not torch.equal(plain.video, dubbed(pipeline, other)[1].latents.video)


@pytest.mark.parametrize("count", [0, 2])
def test_another_number_of_loras_than_one_is_refused(tiny_set, ic_loras, count):
    with pytest.raises(ValueError, match=rf"exactly one LoRA.* {count} are named"):
        dub(pipeline_of(tiny_set, *list(ic_loras.values())[:count]), "hello", footage())


def test_a_source_without_audio_is_refused(pipeline):
    with pytest.raises(ValueError, match="no audio"):
        dub(pipeline, "hello", replace(footage(), audio=None))


def test_the_command_dubs_a_file_and_repeats_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = footage(height=64, width=64)
    with VideoWriter("source.mp4", width=64, height=64, fps=8, sample_rate=RATE) as writer:
        writer.write_frames(source.frames * 2 - 1)
        writer.write_audio(source.audio[0])
    tensors = load_file(embedded_set().distilled)
    save_file(tensors, tmp_path / "ic.safetensors", metadata={"reference_downscale_factor": "1"})

    def ltx2(*words: str) -> None:
        result = CliRunner().invoke(main, ["dub", *words, "--lora", "ic.safetensors", "--quiet"])
        assert result.exit_code == 0, result.output

    ltx2("source.mp4", "--prompt", "hello", "--seed", "5", "-o", "a.mp4")
    ltx2("--from-file", "a.mp4", "-o", "b.mp4")
    first, second = (json.loads(read_metadata(tmp_path / name)["ltx2"]) for name in ("a.mp4", "b.mp4"))
    for settings in (first, second):
        # Written as it was typed, and then as it was found.
        assert settings["request"].pop("source_clip")["edit"] == "dub"
    assert first["request"] == second["request"]
    assert first["source_file"]["path"].endswith("source.mp4")
    assert torch.equal(read_video("a.mp4").read(), read_video("b.mp4").read())
