"""A mistake in a graph of our nodes is answered with what to do."""

from __future__ import annotations

import pytest
from host_graph import Graph, Link
from host_server import GraphError, Server
from node_graphs import (
    FPS,
    SIDE,
    checkpoint,
    image,
    our_latent,
    plan_node,
    prompt,
    sound_of,
    stage,
    text_encoder,
)
from tiny_models import TinyModels


def decode_audio_of_video_only(g: Graph, models: TinyModels) -> Link:
    video = g.add("LTX2AVSeparateLatent", latent=our_latent(g))
    return g.add("LTX2AVDecodeAudio", audio_vae=checkpoint(g, models)[2], latent=video)


def separate_video_only(g: Graph, models: TinyModels) -> Link:
    video = g.add("LTX2AVSeparateLatent", latent=our_latent(g))
    return g.add("LTX2AVSeparateLatent", latent=video)


def decode_video_of_audio_only(g: Graph, models: TinyModels) -> Link:
    audio = g.add("LTX2AVSeparateLatent", latent=our_latent(g))[1]
    return g.add("LTX2AVDecodeVideo", video_vae=checkpoint(g, models)[1], latent=audio)


def join_swapped(g: Graph, models: TinyModels) -> Link:
    parts = g.add("LTX2AVSeparateLatent", latent=our_latent(g))
    return g.add("LTX2AVConcatLatent", video_latent=parts[1], audio_latent=parts)


def join_twice(g: Graph, models: TinyModels) -> Link:
    latent = our_latent(g)
    audio = g.add("LTX2AVSeparateLatent", latent=latent)[1]
    return g.add("LTX2AVConcatLatent", video_latent=latent, audio_latent=audio)


def foreign_latent(g: Graph, models: TinyModels) -> Link:
    latent = g.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    return g.add("LTX2AVDecodeVideo", video_vae=checkpoint(g, models)[1], latent=latent)


def off_the_grid(g: Graph, models: TinyModels) -> Link:
    return g.add("LTX2AVEmptyLatent", width=100, height=64, frames=9, fps=FPS, batch_size=1)


def length_off_the_grid(g: Graph, models: TinyModels) -> Link:
    return plan_node(g, length_unit="frames", length=120, snap="error")[1]


def half_a_frame(g: Graph, models: TinyModels) -> Link:
    return plan_node(g, length_unit="frames", length=9.5)[1]


def image_clip_too_long(g: Graph, models: TinyModels) -> Link:
    place = {"video_vae": checkpoint(g, models)[1], "image": image(g, 17), "strength": 1.0, "crf": 0}
    return g.add("LTX2AVImgToVideoInplace", latent=our_latent(g), **place)


def sound_after_its_end(g: Graph, models: TinyModels) -> Link:
    sound = sound_of(g, 0.5, 16000, 1)
    vae = checkpoint(g, models)[2]
    return g.add("LTX2AVSetAudio", audio_vae=vae, audio=sound, latent=our_latent(g), start=2.0)


def sound_for_video_only(g: Graph, models: TinyModels) -> Link:
    sound = sound_of(g, 0.5, 16000, 1)
    video = g.add("LTX2AVSeparateLatent", latent=our_latent(g))
    vae = checkpoint(g, models)[2]
    return g.add("LTX2AVSetAudio", audio_vae=vae, audio=sound, latent=video, start=0.0)


def sound_shorter_than_video(g: Graph, models: TinyModels) -> Link:
    fast = g.add("LTX2AVEmptyLatent", width=SIDE, height=SIDE, frames=25, fps=48.0, batch_size=1)
    return stage(g, checkpoint(g, models), prompt(g, text_encoder(g, models)), fast)


def guides_of_the_first_stage(g: Graph, models: TinyModels) -> Link:
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    video = g.add("LTX2AVSeparateLatent", latent=our_latent(g))
    guided = g.add(
        "LTXVAddGuide",
        positive=text,
        negative=text[1],
        vae=loaded[1],
        latent=video,
        image=image(g),
        frame_idx=0,
        strength=1.0,
    )
    later = g.add("LTX2AVEmptyLatent", width=128, height=128, frames=9, fps=FPS, batch_size=1)
    return stage(g, loaded, guided, later)


def uncropped_guides(g: Graph, models: TinyModels) -> Link:
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    plan = plan_node(g, stages="1")
    parts = g.add("LTX2AVSeparateLatent", latent=plan[1])
    guided = g.add(
        "LTXVAddGuide",
        positive=text,
        negative=text[1],
        vae=loaded[1],
        latent=parts,
        image=image(g),
        frame_idx=0,
        strength=1.0,
    )
    values = {"fps": FPS, "crf": 18, "batch_index": 0, "plan": plan}
    video = g.add("LTX2AVDecodeToVideo", video_vae=loaded[1], latent=guided[2], **values)
    return g.add("GetVideoComponents", video=video)


def no_upscaler(g: Graph, models: TinyModels) -> Link:
    loaded = g.add(
        "LTX2AVLoadAll",
        ckpt_name=models.checkpoints["2.3"],
        text_encoder=models.text_encoder,
        upscaler="none",
    )
    return g.add("LTX2AVLatentUpscale", latent=our_latent(g), upscale_model=loaded[4], video_vae=loaded[2])


def not_in_the_batch(g: Graph, models: TinyModels) -> Link:
    values = {"fps": FPS, "crf": 18, "batch_index": 1}
    video = g.add("LTX2AVDecodeToVideo", video_vae=checkpoint(g, models)[1], latent=our_latent(g), **values)
    return g.add("GetVideoComponents", video=video)


MISTAKES = {
    decode_audio_of_video_only: "its audio is missing",
    separate_video_only: "its audio is missing: .*LTX-2 Concat AV Latent",
    decode_video_of_audio_only: "its video is missing",
    join_swapped: "swap the two",
    join_twice: "latent with LTX-2 Separate AV Latent",
    foreign_latent: "no LTX-2 audio latent",
    off_the_grid: "width=100 must be a multiple of 32: the nearest are 96 and 128",
    length_off_the_grid: "the nearest are 113 .* and 121",
    half_a_frame: "length=9.5 frames must be a whole number",
    image_clip_too_long: "use fewer images or plan a longer clip",
    sound_after_its_end: "choose an earlier start",
    sound_for_video_only: "its audio is missing",
    sound_shorter_than_video: "use one LTX-2 Clip Plan",
    guides_of_the_first_stage: "from another stage; crop guide frames",
    uncropped_guides: "If guide frames were added: crop",
    no_upscaler: "choose one in LTX-2 Load All instead of none",
    not_in_the_batch: "batch_index=1 is not in a batch of 1",
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_answered_with_what_to_do(server: Server, models: TinyModels, mistake):
    g = Graph()
    made = mistake(g, models)
    kind = g.prompt[made.node]["class_type"]
    if kind == "LTX2AVDecodeAudio":
        g.dump("x", audio=made)
    elif kind in ("LTX2AVDecodeVideo", "GetVideoComponents"):
        g.dump("x", image=made)
    else:
        g.dump("x", latent=made)
    with pytest.raises(GraphError, match=MISTAKES[mistake]) as failed:
        server.run(g.prompt)
    (error,) = (m for k, m in failed.value.detail["status"]["messages"] if k == "execution_error")
    assert error["exception_type"] == "ValueError"
