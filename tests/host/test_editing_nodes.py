"""The edit nodes and LTX-2 Next Stage: preserved parts are exact, and so are lengths."""

from __future__ import annotations

import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Server
from node_graphs import FPS, checkpoint, image, our_latent, prompt, reports, sound_of, stage, text_encoder
from tiny_models import TinyModels

RATE = 22050
FIRST = {"schedule": "distilled 8", "cfg": 1.0}
SECOND = {"schedule": "distilled 3 (second stage)", "cfg": 1.0}


def clip(g: Graph, frames: int) -> tuple[Link, Link]:
    """Images of 128 x 64, and audio of the same length."""
    return image(g, frames, 128, 64), sound_of(g, frames / FPS, RATE, 2)


def two_stages(g: Graph, models: TinyModels, loaded: Link, latent: Link) -> Link:
    text = prompt(g, text_encoder(g, models))
    larger = next_stage(g, models, loaded, text, stage(g, loaded, text, latent, **FIRST))
    return stage(g, loaded, larger, larger[2], **SECOND)


def next_stage(g: Graph, models: TinyModels, loaded: Link, text: Link, latent: Link) -> Link:
    return g.add(
        "LTX2AVNextStage",
        positive=text,
        negative=text[1],
        latent=latent,
        upscale_model=g.add("LTX2AVLoadUpscaler", upscaler=models.upsampler),
        video_vae=loaded[1],
    )


def finished(g: Graph, loaded: Link, edit: Link, latent: Link, *, decoded: bool) -> Link:
    """The finished edit, from decoded images and audio or from a latent."""
    if not decoded:
        vaes = {"video_vae": loaded[1], "audio_vae": loaded[2]}
        return g.add("LTX2AVFinishEdit", edit=edit, latent=latent, **vaes)
    return g.add(
        "LTX2AVFinishEdit",
        edit=edit,
        audio=g.add("LTX2AVDecodeAudio", audio_vae=loaded[2], latent=latent),
        images=g.add("LTX2AVDecodeVideo", video_vae=loaded[1], latent=latent),
    )


def test_the_next_stage_equals_the_single_nodes_in_the_right_order(server: Server, models: TinyModels):
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    vae, first_frame, guide = loaded[1], image(g), image(g, 1, 70)

    def conditioned(latent: Link, text: Link) -> Link:
        first = g.add(
            "LTX2AVImgToVideoInplace", video_vae=vae, image=first_frame, latent=latent, strength=0.8, crf=30
        )
        values = {"frame": 8, "strength": 0.9, "attention_strength": 0.5, "crf": 0, "downscale": 1}
        ends = {"positive": text, "negative": text[1], "video_vae": vae, "latent": first, "image": guide}
        return g.add("LTX2AVAddGuide", **ends, **values)

    start = conditioned(our_latent(g), text)
    sampled = stage(g, loaded, start, start[2], **SECOND)
    cropped = g.add("LTX2AVCropGuides", positive=start, negative=start[1], latent=sampled)
    upscaler = g.add("LTX2AVLoadUpscaler", upscaler=models.upsampler)
    larger = g.add("LTX2AVLatentUpscale", latent=cropped[2], upscale_model=upscaler, video_vae=vae)
    by_hand = conditioned(larger, cropped)
    once = next_stage(g, models, loaded, start, sampled)
    for name, node in (("by_hand", by_hand), ("once", once)):
        g.dump(name, latent=node[2], conditioning=node)
    result = server.run(g.prompt, timeout_s=300)
    expected, found = result.tensors("by_hand"), result.tensors("once")
    assert expected.keys() == found.keys()
    assert "cond/keyframe_idxs" in found
    assert found["latent/video"].shape == (1, 128, 3, 4, 4)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert "enlarged to 128 x 128" in reports(result)
    wrong = Graph()
    wrong.prompt = {**g.prompt}
    plain = prompt(wrong, text_encoder(wrong, models))
    wrong.dump("x", latent=next_stage(wrong, models, loaded, plain, sampled)[2])
    with pytest.raises(GraphError, match="connect positive and negative of the last LTX-2 Add Guide"):
        server.run(wrong.prompt, timeout_s=300)


def test_an_extension_preserves_the_clip_and_has_exactly_the_new_frames(server: Server, models: TinyModels):
    g = Graph()
    loaded, (images, track) = checkpoint(g, models), clip(g, 29)
    values = {"fps": FPS, "length_unit": "frames", "length": 10.0, "keep_frames": 17, "fade_frames": 4}
    ends = {"video_vae": loaded[1], "images": images, "audio_vae": loaded[2], "audio": track}
    start = g.add("LTX2AVExtend", **ends, **values, stages="2")
    latent = two_stages(g, models, loaded, start)
    done = finished(g, loaded, start[2], latent, decoded=True)
    g.dump("start", latent=start)
    g.dump("source", image=images, audio=track)
    g.dump("done", image=done, audio=done[1])
    result = server.run(g.prompt, timeout_s=300)
    prepared, source, made = (result.tensors(name) for name in ("start", "source", "done"))
    assert prepared["mask/video"][0, 0, :, 0, 0].tolist() == [0, 0, 0, 1, 1]
    audio_mask = prepared["mask/audio"][0, 0, :, 0]
    assert not audio_mask[:18].any(), "the preserved frames end at 0.71 s, latent 17 at 0.69 s"
    assert audio_mask[18:].all(), "the preserved frames end at 0.71 s, latent 17 at 0.69 s"
    assert made["image"].shape == (39, 64, 128, 3)
    torch.testing.assert_close(made["image"][:25], source["image"][:25], atol=1e-6, rtol=0)
    assert (made["image"][25:29] - source["image"][25:29]).abs().max() > 1e-3
    assert made["waveform"].shape == (1, 2, round(39 / FPS * RATE))
    assert int(made["sample_rate"]) == RATE
    preserved = source["waveform"].shape[-1] - round(0.06 * RATE)
    assert torch.equal(made["waveform"][..., :preserved], source["waveform"][..., :preserved])
    assert made["waveform"][..., -2000:].any()


@pytest.mark.parametrize("paste", [True, False])
def test_a_retake_in_two_stages_preserves_the_rest(server: Server, models: TinyModels, paste: bool):
    g = Graph()
    loaded, (images, track) = checkpoint(g, models), clip(g, 35)
    values = {"fps": FPS, "video_regions": "0.5-0.9", "audio_regions": "1-1.2", "rounding": "cover"}
    ends = {"video_vae": loaded[1], "images": images, "audio_vae": loaded[2], "audio": track}
    start = g.add("LTX2AVRetake", **ends, **values, paste=paste, stages="2")
    text = prompt(g, text_encoder(g, models))
    larger = next_stage(g, models, loaded, text, stage(g, loaded, text, start, **FIRST))
    latent = stage(g, loaded, larger, larger[2], **SECOND)
    done = finished(g, loaded, start[2], latent, decoded=False)
    g.dump("again", latent=larger[2])
    g.dump("latent", latent=latent)
    g.dump("source", image=images, audio=track)
    g.dump("done", image=done, audio=done[1])
    result = server.run(g.prompt, timeout_s=300)
    again, source, made = (result.tensors(name) for name in ("again", "source", "done"))
    opened = again["mask/video"][0, 0, :, 0, 0].bool()
    assert opened.tolist() == [False, False, True, True, False]
    sampled = result.tensors("latent")["latent/video"]
    clean = again["latent/video"]
    torch.testing.assert_close(sampled[:, :, ~opened], clean[:, :, ~opened], atol=1e-4, rtol=1e-4)
    assert (sampled[:, :, opened] - clean[:, :, opened]).abs().max() > 1e-2
    assert made["image"].shape == source["image"].shape
    difference = (made["image"] - source["image"]).abs().amax(dim=(1, 2, 3))
    assert (difference[9:25] > 1e-3).all()
    assert (difference[33:] < 1e-6).all()
    preserved = torch.cat((difference[:9], difference[25:33]))
    assert (preserved < 1e-6).all() if paste else (preserved > 1e-3).any()
    first, last = round(0.95 * RATE), round(1.25 * RATE)
    for part in (slice(0, first), slice(last, None)):
        assert torch.equal(made["waveform"][..., part], source["waveform"][..., part])
    inside = slice(first + 2205, last - 2205)
    assert (made["waveform"][..., inside] - source["waveform"][..., inside]).abs().max() > 1e-3


def test_video_to_audio_leaves_the_frames_bit_for_bit(server: Server, models: TinyModels):
    g = Graph()
    loaded, images = checkpoint(g, models), image(g, 20, 128, 64)
    start = g.add("LTX2AVSound", video_vae=loaded[1], images=images, fps=FPS, ceiling=-20.0)
    latent = stage(g, loaded, prompt(g, text_encoder(g, models)), start, **FIRST)
    track = g.add("LTX2AVDecodeAudio", audio_vae=loaded[2], latent=latent)
    done = g.add("LTX2AVFinishEdit", edit=start[2], audio=track)
    g.dump("start", latent=start)
    g.dump("latent", latent=latent)
    g.dump("source", image=images)
    g.dump("done", image=done, audio=done[1])
    result = server.run(g.prompt, timeout_s=300)
    prepared, sampled, made = (result.tensors(name) for name in ("start", "latent", "done"))
    assert not prepared["mask/video"].any()
    assert prepared["mask/audio"].all()
    torch.testing.assert_close(sampled["latent/video"], prepared["latent/video"], atol=1e-4, rtol=1e-4)
    assert sampled["latent/audio"].std() > 0
    assert torch.equal(made["image"], result.tensors("source")["image"])
    assert made["waveform"].shape[-1] == round(20 / FPS * int(made["sample_rate"]))
    assert 0 < made["waveform"].abs().max() <= 0.1 + 1e-6
