"""The node that prepares a dub, on the tiny LTX-2.5: a voice before the clip, and audio that is preserved."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Server
from node_graphs import FPS, image, prompt, reports, sound_of, stage
from tiny_models import TinyModels

from ltx2_core.tiny.write import write_tiny_set

FOLDER = "tiny25"
"""Below each folder of models, so that the tests of other generations list their own files first."""
RATE = 22050
FIRST = {"schedule": "distilled 8", "cfg": 1.0}
SECOND = {"schedule": "second stage, by the model", "cfg": 1.0}


@pytest.fixture(scope="module")
def tiny25(server: Server, models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a tiny LTX-2.5 checkpoint."""
    files = write_tiny_set(tmp_path_factory.mktemp("tiny25"), generation="2.5", dtype=torch.float32)
    folder = server.base / "models" / "checkpoints" / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / files.checkpoint.name).write_bytes(files.checkpoint.read_bytes())
    yield f"{FOLDER}/{files.checkpoint.name}"
    # Other tests look at what the lists of files hold.
    shutil.rmtree(folder)


class Bench:
    """A graph with the models and a clip of 12 frames, 128 x 128, with audio."""

    def __init__(self, models: TinyModels, checkpoint: str) -> None:
        self.g = g = Graph()
        self.models = models
        self.loaded = g.add("LTX2AVLoadCheckpoint", ckpt_name=checkpoint)
        name = models.checkpoints["2.3"]
        clip = g.add("LTX2AVLoadTextEncoder", text_encoder=models.text_encoder, ckpt_name=name)
        self.text = prompt(g, clip)
        self.images, self.audio = image(g, 12, 128, 128), sound_of(g, 0.5, RATE, 2)

    def dub(self, **changes: object) -> Link:
        inputs = {
            "positive": self.text,
            "negative": self.text[1],
            "video_vae": self.loaded[1],
            "audio_vae": self.loaded[2],
            "images": self.images,
            "audio": self.audio,
            "fps": FPS,
            "downscale": 1,
        }
        return self.g.add("LTX2AVDub", **{**inputs, **changes})

    def stage(self, text: Link, latent: Link, **changes: object) -> Link:
        return stage(self.g, self.loaded, text, latent, **changes)

    def next(self, text: Link, latent: Link) -> Link:
        return self.g.add(
            "LTX2AVNextStage",
            positive=text,
            negative=text[1],
            latent=latent,
            upscale_model=self.g.add("LTX2AVLoadUpscaler", upscaler=self.models.upsampler),
            video_vae=self.loaded[1],
        )


@pytest.mark.parametrize("scale", [1, 2])
def test_a_dub_runs_in_two_stages_and_has_the_audio_of_the_first(
    server: Server, models: TinyModels, tiny25: str, scale: int
) -> None:
    bench = Bench(models, tiny25)
    start = bench.dub(downscale=scale)
    sampled = bench.stage(start, start[2], **FIRST)
    larger = bench.next(start, sampled)
    second = bench.stage(larger, larger[2], **SECOND)
    cropped = bench.g.add("LTX2AVCropGuides", positive=larger, negative=larger[1], latent=second)
    vaes = {"video_vae": bench.loaded[1], "audio_vae": bench.loaded[2]}
    done = bench.g.add("LTX2AVFinishEdit", edit=start[3], latent=cropped[2], **vaes)
    for name, latent in {"start": start[2], "first": sampled, "larger": larger[2], "second": second}.items():
        bench.g.dump(name, latent=latent)
    bench.g.dump("done", image=done, audio=done[1])
    result = server.run(bench.g.prompt, timeout_s=300)
    begun, first, again, last, made = (
        result.tensors(name) for name in ("start", "first", "larger", "second", "done")
    )
    # Two latent frames of the clip, and two of the reference.
    assert begun["latent/video"].shape == (1, 128, 4, 2, 2)
    assert begun["mask/video"][0, 0, :2].min() == 1
    assert begun["mask/video"][0, 0, 2:].max() == 0
    assert begun["mask/audio"].min() == 1
    assert again["latent/video"].shape == (1, 128, 4, 4, 4)
    assert again["mask/audio"].max() == 0
    assert torch.equal(again["latent/audio"], first["latent/audio"])
    torch.testing.assert_close(last["latent/audio"], first["latent/audio"])
    assert first["latent/audio"].std() > 0
    assert made["image"].shape == (9, 128, 128, 3)
    assert made["waveform"].shape[-1] == round(9 / FPS * int(made["sample_rate"]))
    assert "9 of 12 frames are the reference" in reports(result)


def test_the_first_stage_is_what_a_guide_and_a_reference_audio_give(
    server: Server, models: TinyModels, tiny25: str
) -> None:
    """Attention does not depend on the order of tokens, so that those of a voice may precede the clip's."""
    bench = Bench(models, tiny25)
    start, g = bench.dub(), bench.g
    ours = bench.stage(start, start[2], **FIRST)
    voice = g.add(
        "LTX2AVReferenceAudio",
        model=bench.loaded,
        positive=bench.text,
        negative=bench.text[1],
        audio_vae=bench.loaded[2],
        audio=bench.audio,
        start=0.0,
        seconds=0.0,
        identity=0.0,
        start_percent=0.0,
        end_percent=1.0,
    )
    latent = g.add("LTX2AVEmptyLatent", width=64, height=64, frames=9, fps=FPS, batch_size=1)
    guided = g.add(
        "LTX2AVAddGuide",
        positive=voice[1],
        negative=voice[2],
        video_vae=bench.loaded[1],
        latent=latent,
        image=bench.images,
        frame=0,
        strength=1.0,
        attention_strength=1.0,
        crf=0,
        downscale=1,
    )
    alone = bench.stage(bench.text, latent, **FIRST)
    g.dump("ours", latent=ours)
    g.dump("parts", latent=bench.stage(guided, guided[2], **FIRST))
    g.dump("alone", latent=alone)
    result = server.run(g.prompt, timeout_s=300)
    found, parts, free = (result.tensors(name) for name in ("ours", "parts", "alone"))
    for name in ("latent/video", "latent/audio"):
        torch.testing.assert_close(found[name], parts[name], atol=1e-4, rtol=1e-3)
    assert (found["latent/audio"] - free["latent/audio"]).abs().max() > 1e-2


def test_a_clip_without_audio_is_refused(server: Server, models: TinyModels, tiny25: str) -> None:
    bench = Bench(models, tiny25)
    silent = bench.g.add("GetVideoComponents", video=bench.g.add("CreateVideo", images=bench.images, fps=FPS))
    bench.g.dump("start", latent=bench.dub(audio=silent[1])[2])
    with pytest.raises(GraphError, match=re.escape("the video has no audio: a dub takes the voice from it")):
        server.run(bench.g.prompt)
