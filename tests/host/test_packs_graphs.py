"""Whole graphs that mix our nodes with those of VideoHelperSuite, rgthree and KJNodes.

Most are run twice, with core's MODEL and VAEs and with ours, and must give the same. ``COMFYUI_PACKS`` names
a folder with packs; a graph is skipped where its pack is not in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from browser import comfy_page
from foreign_changes import EFFECT, TOLERANCE, distance, knows
from host_graph import Graph, Link, Loaded, Recipe, load, sample
from host_server import Server
from node_graphs import FPS, image, our_latent, prompt, stage
from tiny_models import TinyModels

from ltx2_core.media import read_video

CLIP = Path(__file__).resolve().parents[2] / "example_workflows" / "input" / "clip.mp4"
PLAIN = Recipe()


def need(server: Server, pack: str, *nodes: str) -> None:
    if not all(knows(server, node) for node in nodes):
        pytest.skip(f"set COMFYUI_PACKS to a folder with {pack}")


def both(
    server: Server,
    models: TinyModels,
    build: Callable[[Graph, Loaded], dict[str, Link]],
    streams_off: str = "",
) -> dict[str, dict[str, dict[str, torch.Tensor]]]:
    """What a graph gives with core's loaders and with ours: "core" or "ours" -> name -> tensors."""
    found = {}
    for whose in ("core", "ours"):
        g = Graph()
        loaded = load(g, models, "2.3", model=whose)
        if streams_off:
            loaded = replace(loaded, model=g.add("LTX2ProbeStreams", model=loaded.model, off=streams_off))
        outputs = build(g, loaded)
        for name, link in outputs.items():
            g.dump(name, **{"image" if name.startswith("image") else "latent": link})
        result = server.run(g.prompt)
        found[whose] = {name: result.tensors(name) for name in outputs}
    return found


def assert_same(found: dict[str, dict[str, dict[str, torch.Tensor]]]) -> None:
    for name, core in found["core"].items():
        ours = found["ours"][name]
        assert core.keys() == ours.keys()
        for key in core:
            if core[key].is_floating_point():
                off = (core[key] - ours[key]).norm() / core[key].norm()
                assert off < TOLERANCE, f"{name}: {key}: {off:.1e}"


# VideoHelperSuite


def vhs_clip(g: Graph, server: Server, **changes: object) -> Link:
    """Images, count, audio and information of a clip."""
    shutil.copy(CLIP, server.base / "input" / "vhs.mp4")
    values = {
        "force_rate": 0,
        "custom_width": 0,
        "custom_height": 0,
        "frame_load_cap": 0,
        "skip_first_frames": 0,
        "select_every_nth": 1,
        "format": "None",
    }
    return g.add("VHS_LoadVideo", video="vhs.mp4", **{**values, **changes})


def vhs_saved(server: Server, g: Graph, name: str, images: Link, audio: Link, fps: Link | float) -> Path:
    values = {"loop_count": 0, "format": "video/h264-mp4", "pingpong": False, "save_output": True}
    more = {"pix_fmt": "yuv420p", "crf": 10, "save_metadata": True, "trim_to_audio": False}
    g.add(
        "VHS_VideoCombine",
        images=images,
        audio=audio,
        frame_rate=fps,
        filename_prefix=name,
        **values,
        **more,
    )
    result = server.run(g.prompt)
    (file,) = (gif for output in result.outputs.values() for gif in output.get("gifs", []))
    return Path(file["fullpath"])


def test_a_clip_of_videohelpersuite_is_extended_and_combined_by_it(
    server: Server, models: TinyModels
) -> None:
    need(server, "ComfyUI-VideoHelperSuite", "VHS_LoadVideo", "VHS_VideoCombine")
    g = Graph()
    names = {"ckpt_name": models.checkpoints["2.3"], "text_encoder": models.text_encoder}
    loaded = g.add("LTX2AVLoadAll", **names, upscaler="none")
    clip = vhs_clip(g, server)
    fps = g.add("VHS_VideoInfoLoaded", video_info=clip[3])
    edit = g.add(
        "LTX2AVExtend",
        images=clip,
        audio=clip[2],
        fps=fps,
        length_unit="frames",
        length=16,
        keep_frames=17,
        fade_frames=8,
        stages="1",
        video_vae=loaded[2],
        audio_vae=loaded[3],
    )
    text = g.add("LTX2AVPrompt", clip=loaded[1], positive="a ball", negative="", fps=fps, plan=edit[1])
    sampled = stage(g, loaded, text, edit, cfg=1.0)
    vaes = {"video_vae": loaded[2], "audio_vae": loaded[3]}
    done = g.add("LTX2AVFinishEdit", edit=edit[2], latent=sampled, **vaes)
    path = vhs_saved(server, g, "extended", done, done[1], fps)
    source = read_video(CLIP)
    extended = read_video(path)
    frames = extended.read()
    assert len(frames) == len(source.read()) + 16
    with av.open(path) as file:
        assert file.streams.video[0].average_rate == Fraction(25)
        assert file.streams.audio
    # Its file is compressed once more, so that preserved frames are close and not equal.
    assert (frames[:20] - source.read()[:20]).abs().mean() < 0.02


@pytest.mark.parametrize("rules", ["None", "LTXV"])
def test_frames_of_videohelpersuite_go_into_images_guides_and_audio(
    server: Server, models: TinyModels, rules: str, streams_off: str
) -> None:
    need(server, "ComfyUI-VideoHelperSuite", "VHS_LoadVideo")

    def build(g: Graph, loaded: Loaded) -> dict[str, Link]:
        clip = vhs_clip(g, server, frame_load_cap=17, skip_first_frames=2, format=rules)
        text = prompt(g, loaded.clip)
        latent = our_latent(g, 17)
        image = g.add("ImageFromBatch", image=clip, batch_index=0, length=1)
        begun = g.add(
            "LTX2AVImgToVideoInplace", video_vae=loaded.vae, image=image, latent=latent, strength=1.0, crf=0
        )
        guided = g.add(
            "LTX2AVAddGuide",
            positive=text,
            negative=text[1],
            video_vae=loaded.vae,
            latent=begun,
            image=clip,
            frame=0,
            strength=0.8,
            attention_strength=1.0,
            downscale=1,
            crf=0,
        )
        sampled = stage(g, loaded.model, guided, guided[2], cfg=2.0)
        cropped = g.add("LTX2AVCropGuides", positive=guided, negative=guided[1], latent=sampled)
        parts = g.add("LTXVSeparateAVLatent", av_latent=cropped[2])
        return {"latent": cropped[2], "image": g.add("VAEDecode", vae=loaded.vae, samples=parts)}

    assert_same(both(server, models, build, streams_off))


def test_audio_of_videohelpersuite_is_that_of_cores_loader(server: Server, models: TinyModels) -> None:
    need(server, "ComfyUI-VideoHelperSuite", "VHS_LoadVideo")
    g = Graph()
    loaded = g.add("LTX2AVLoadCheckpoint", ckpt_name=models.checkpoints["2.3"])
    theirs = vhs_clip(g, server)[2]
    components = g.add("GetVideoComponents", video=g.add("LoadVideo", file="vhs.mp4"))
    for name, audio in (("theirs", theirs), ("core", components[1])):
        given = g.add("LTX2AVSetAudio", audio_vae=loaded[2], audio=audio, latent=our_latent(g, 33), start=0.2)
        g.dump(name, latent=given, audio=given[1])
    result = server.run(g.prompt)
    core, theirs_ = result.tensors("core"), result.tensors("theirs")
    assert (core["latent/audio"] - theirs_["latent/audio"]).norm() / core["latent/audio"].norm() < 1e-3


# rgthree


def test_loras_of_rgthree_act_as_on_cores_model(server: Server, models: TinyModels, streams_off: str) -> None:
    need(server, "rgthree-comfy", "Power Lora Loader (rgthree)", "Lora Loader Stack (rgthree)")

    def build(g: Graph, loaded: Loaded) -> dict[str, Link]:
        one = {"on": True, "lora": models.lora, "strength": 0.7}
        off = {"on": False, "lora": models.lora, "strength": 3.0}
        power = g.add(
            "Power Lora Loader (rgthree)", model=loaded.model, clip=loaded.clip, lora_1=one, lora_2=off
        )
        none = {f"lora_0{n}": "None" for n in (2, 3, 4)} | {f"strength_0{n}": 0.0 for n in (2, 3, 4)}
        stack = g.add(
            "Lora Loader Stack (rgthree)",
            model=loaded.model,
            clip=loaded.clip,
            lora_01=models.lora,
            strength_01=0.7,
            **none,
        )
        return {
            "plain": sample(g, loaded, PLAIN),
            "power": sample(g, replace(loaded, model=power, clip=power[1]), PLAIN),
            "stack": sample(g, replace(loaded, model=stack, clip=stack[1]), PLAIN),
        }

    found = both(server, models, build, streams_off)
    assert_same(found)
    assert distance(found["ours"]["plain"], found["ours"]["power"]) > EFFECT
    assert distance(found["ours"]["power"], found["ours"]["stack"]) == 0


def test_a_context_of_rgthree_carries_all_and_its_seed_and_switch_feed_our_nodes(
    server: Server, models: TinyModels
) -> None:
    need(server, "rgthree-comfy", "Context Big (rgthree)", "Seed (rgthree)", "Any Switch (rgthree)")
    g = Graph()
    loaded = g.add(
        "LTX2AVLoadAll",
        ckpt_name=models.checkpoints["2.3"],
        text_encoder=models.text_encoder,
        upscaler="none",
    )
    text, latent = prompt(g, loaded[1]), our_latent(g)
    seed = g.add("Seed (rgthree)", seed=1234)
    context = g.add(
        "Context Big (rgthree)",
        model=loaded,
        clip=loaded[1],
        vae=loaded[2],
        positive=text,
        negative=text[1],
        latent=latent,
        seed=seed,
        steps=2,
        cfg=3.0,
    )
    switched = g.add("Any Switch (rgthree)", any_01=context[6], any_02=latent)
    values = {"schedule": "LTX-2 scheduler", "audio_cfg": 0.0, "sampler": "by the model"}
    carried = g.add(
        "LTX2AVSampleStage",
        model=context[1],
        positive=context[4],
        negative=context[5],
        latent=switched,
        seed=context[8],
        steps=context[9],
        cfg=context[11],
        **values,
    )
    direct = stage(g, loaded, text, latent, seed=1234, schedule="LTX-2 scheduler", steps=2, cfg=3.0)
    g.dump("carried", latent=carried)
    g.dump("direct", latent=direct)
    parts = g.add("LTXVSeparateAVLatent", av_latent=carried)
    g.dump("image", image=g.add("VAEDecode", vae=context[3], samples=parts))
    result = server.run(g.prompt)
    assert distance(result.tensors("carried"), result.tensors("direct")) == 0


# KJNodes


def test_sizes_of_kjnodes_feed_our_plan(server: Server, models: TinyModels) -> None:
    need(server, "ComfyUI-KJNodes", "ImageResizeKJv2", "GetImageSizeAndCount")
    g = Graph()
    resized = g.add(
        "ImageResizeKJv2",
        image=image(g, width=200, height=100),
        width=128,
        height=128,
        upscale_method="lanczos",
        keep_proportion="crop",
        pad_color="0, 0, 0",
        crop_position="center",
        divisible_by=32,
        device="cpu",
    )
    counted = g.add("GetImageSizeAndCount", image=resized)
    values = {
        "length_unit": "frames",
        "length": 9,
        "fps": FPS,
        "stages": "1",
        "batch_size": 1,
        "snap": "error",
    }
    plan = g.add("LTX2AVClipPlan", width=counted[1], height=counted[2], **values)
    g.dump("latent", latent=plan[1])
    assert server.run(g.prompt).tensors("latent")["latent/video"].shape[3:] == (4, 4)


def test_images_masks_and_guides_of_kjnodes_give_the_same_with_our_vae_and_model(
    server: Server, models: TinyModels, streams_off: str
) -> None:
    need(server, "ComfyUI-KJNodes", "LTXVImgToVideoInplaceKJ", "LTXVAddGuideMulti", "LTXVAudioVideoMask")

    def build(g: Graph, loaded: Loaded) -> dict[str, Link]:
        first, last = image(g, width=64), image(g, width=64)
        text = prompt(g, loaded.clip)
        parts = g.add("LTXVSeparateAVLatent", av_latent=our_latent(g, 17))
        placed = g.add(
            "LTXVImgToVideoInplaceKJ",
            vae=loaded.vae,
            latent=parts,
            num_images="2",
            **{"num_images.image_1": first, "num_images.index_1": 0, "num_images.strength_1": 0.9},
            **{"num_images.image_2": last, "num_images.index_2": 8, "num_images.strength_2": 0.4},
        )
        guides = g.add(
            "LTXVAddGuideMulti",
            positive=text,
            negative=text[1],
            vae=loaded.vae,
            latent=placed,
            num_guides="1",
            **{"num_guides.image_1": last, "num_guides.frame_idx_1": -1, "num_guides.strength_1": 0.7},
        )
        times = {
            "video_start_time": 0.2,
            "video_end_time": 0.7,
            "audio_start_time": 0.1,
            "audio_end_time": 0.5,
        }
        masked = g.add(
            "LTXVAudioVideoMask",
            video_latent=placed,
            audio_latent=parts[1],
            video_fps=FPS,
            max_length="partial",
            existing_mask_mode="add",
            **times,
        )
        av_latents = {
            "guided": (guides, g.add("LTXVConcatAVLatent", video_latent=guides[2], audio_latent=parts[1])),
            "masked": (text, g.add("LTXVConcatAVLatent", video_latent=masked, audio_latent=masked[1])),
        }
        return {name: stage(g, loaded.model, *pair, cfg=2.0) for name, pair in av_latents.items()}

    assert_same(both(server, models, build, streams_off))


SET_AND_GET = """async (text) => {
    await app.loadGraphData(JSON.parse(text));
    const before = (await app.graphToPrompt()).output;
    const stage = app.graph.nodes.filter((node) => node.type === "LTX2AVSampleStage").at(-1);
    for (const name of ["model", "positive", "latent"]) {
        const slot = stage.inputs.findIndex((input) => input.name === name);
        const link = app.graph.links[stage.inputs[slot].link] ?? app.graph.links.get(stage.inputs[slot].link);
        const [set, get] = ["SetNode", "GetNode"].map((type) => {
            const node = LiteGraph.createNode(type);
            app.graph.add(node);
            return node;
        });
        app.graph.getNodeById(link.origin_id).connect(link.origin_slot, set, 0);
        for (const node of [set, get]) {
            node.widgets[0].value = name;
            node.widgets[0].callback?.(name);
        }
        get.connect(0, stage, slot);
    }
    const read = stage.inputs.map((input) => app.graph.getNodeById((app.graph.links[input.link]
        ?? app.graph.links.get(input.link))?.origin_id)?.type);
    return JSON.stringify([before, (await app.graphToPrompt()).output, read]);
}"""
"""Lead three inputs of a stage through nodes that carry a value by its name.

Returns the graph before and after, and the types of nodes that the stage reads then.
"""


def test_values_by_name_of_kjnodes_are_sent_as_the_links_that_they_stand_for(
    server: Server, chromium: str
) -> None:
    need(server, "ComfyUI-KJNodes", "ImageResizeKJv2")
    text = (CLIP.parents[1] / "text_to_video_distilled.json").read_text(encoding="utf-8")
    with comfy_page(server.port, chromium) as page:
        before, after, read = page.ask(SET_AND_GET, text)
    assert read.count("GetNode") == 3
    assert after == before
