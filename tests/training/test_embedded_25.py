"""The trained set of LTX-2.5 in the package: small, complete, and as good as what it continues."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.main import main
from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.run.duration import predict_seconds
from ltx2_core.tiny.continued import embedded_changes, write_embedded_25
from ltx2_core.training.data import psnr
from ltx2_core.training.tiny.duration import timed_captions
from ltx2_core.training.world.batches import HELD_OUT, video_batch


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_embedded_25(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def pipeline(files):
    return LTX2Pipeline(
        files.checkpoint,
        files.duration_head,
        text_encoder=files.text_encoder,
        upscaler=files.upsampler,
        video_decoder=files.video_vae,
        keep_loaded=True,
    )


def test_it_is_small_and_complete(files) -> None:
    size = sum(path.stat().st_size for path in embedded_changes().rglob("*") if path.is_file())
    assert size < 5_000_000
    checkpoint = open_checkpoint(files.checkpoint)
    assert checkpoint.generation == "2.5"
    for component in (Component.TRANSFORMER, Component.TEXT_CONNECTORS, Component.VOCODER):
        checkpoint.check(component)
    vae = open_checkpoint(files.video_vae)
    assert vae.has_diffusion_decoder
    for component in (Component.VIDEO_ENCODER, Component.VIDEO_DECODER):
        vae.check(component)
    assert all(path.exists() for path in (files.upsampler, files.distilled, files.edges, files.text_encoder))


def test_models_export_writes_it(files, tmp_path) -> None:
    result = CliRunner().invoke(main, ["models", "export", str(tmp_path), "--generation", "2.5"])
    assert result.exit_code == 0, result.output
    root = files.checkpoint.parents[1]
    for path in root.rglob("*.*"):
        assert (tmp_path / path.relative_to(root)).read_bytes() == path.read_bytes()
        assert str(tmp_path / path.relative_to(root)) in result.output


def test_its_decoder_is_within_1_db_of_the_convolutional_one(files, pipeline) -> None:
    conv = LTX2Pipeline(files.checkpoint, text_encoder=files.text_encoder, keep_loaded=True)
    totals = []
    for decoding in (pipeline, conv):
        total = 0.0
        for seed in range(HELD_OUT, HELD_OUT + 3):
            truth = video_batch([seed], frames=17, width=96, height=96)
            latent = decoding.encode_video((truth[0].movedim(0, 1) + 1) / 2)
            decoded = torch.cat(list(decoding.decode_video(latent)))
            total += float(psnr(decoded.movedim(0, 1)[None], truth))
        totals.append(total / 3)
    assert totals[1] > 22
    assert totals[0] > totals[1] - 1


def test_its_duration_head_reads_the_length_from_the_caption(pipeline) -> None:
    captions, seconds = timed_captions(range(HELD_OUT, HELD_OUT + 5))
    with torch.inference_mode():
        found = [predict_seconds(pipeline.networks, pipeline.encode_text(text)[0]) for text in captions]
    errors = sorted(abs(round(25 * f) - round(25 * s)) for f, s in zip(found, seconds, strict=True))
    assert errors[2] <= 2


def test_it_makes_a_clip(pipeline) -> None:
    clip = pipeline("a red circle bounces", width=64, height=64, num_frames=9, fps=25.0, steps=2, cfg=1.0)
    assert clip.array().shape == (9, 64, 64, 3)
