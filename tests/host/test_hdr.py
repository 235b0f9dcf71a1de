"""The nodes of HDR clips: light goes from EXR files to images and back, and SDR inputs refuse it."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Result, Server
from node_graphs import (
    FPS,
    assert_equal,
    checkpoint,
    image,
    our_latent,
    prompt,
    sound_of,
    text_encoder,
)
from tiny_models import TinyModels

from ltx2_core.media.exr import read_exr, write_exr
from ltx2_core.media.hdr_space import HDR_SPACES, logc3_decode

pytest.importorskip("OpenEXR")
FRAMES, SIDE = 9, 64
BRIGHT = 20.0


def texts(result: Result) -> list[str]:
    return [text for output in result.outputs.values() for text in output.get("text", ())]


@pytest.fixture(scope="module")
def plates(server: Server) -> list[torch.Tensor]:
    """The images of the folder ``plates`` in the host's input folder, up to 20 times as bright as white."""
    folder = server.base / "input" / "plates"
    folder.mkdir(exist_ok=True)
    drawn = [
        torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(n)) ** 4 * BRIGHT
        for n in range(FRAMES)
    ]
    for number, plate in enumerate(drawn):
        write_exr(folder / f"p{number:03}.exr", plate, HDR_SPACES["acescg"], {})
    return [read_exr(folder / f"p{number:03}.exr")[0] for number in range(FRAMES)]


def loaded(g: Graph, name: str = "plates") -> Link:
    return g.add("LTX2AVLoadEXR", image=name, colours="acescg")


def saved(g: Graph, images: Link, save_as: str, **more: object) -> Link:
    values = {"colours": "acescg", "save_as": save_as, "fps": FPS, "filename_prefix": f"hdr/{save_as[-6:]}"}
    return g.add("LTX2AVSaveHDR", images=images, **{**values, **more})


def test_light_is_saved_as_it_was_loaded(server: Server, plates: list[torch.Tensor]) -> None:
    g = Graph()
    images = loaded(g)
    g.dump("light", image=images)
    g.dump("codes", image=images[1])
    saved(g, images, "EXR images")
    saved(g, images, "EXR images and HLG master", audio=sound_of(g, 1.0, 22050, 2))
    result = server.run(g.prompt, timeout_s=120)
    light, codes = (result.tensors(name)["image"] for name in ("light", "codes"))
    assert torch.equal(light.permute(0, 3, 1, 2), torch.stack(plates))
    assert codes.min() >= 0
    assert codes.max() <= 1
    folder, master = sorted(map(Path, (t for t in texts(result) if "/hdr/" in t)), key=lambda p: p.suffix)
    for images_folder in (folder, master.with_name(f"{master.stem}_exr")):
        files = sorted(images_folder.iterdir())
        assert len(files) == FRAMES
        for file, plate in zip(files, plates, strict=True):
            torch.testing.assert_close(read_exr(file)[0], plate, rtol=2e-3, atol=1e-3)
    with av.open(str(master)) as file:
        video = file.streams.video[0]
        assert video.codec_context.name == "hevc"
        assert video.codec_context.pix_fmt == "yuv420p10le"
        assert sum(1 for _ in file.decode(video)) == FRAMES
        assert len(file.streams.audio) == 1


@pytest.mark.parametrize("curve", ["by the LoRA", "acescct", "logc3"])
def test_a_latent_is_decoded_to_light(
    server: Server, models: TinyModels, plates: list[torch.Tensor], curve: str
) -> None:
    g = Graph()
    vae = checkpoint(g, models)[1]
    # The VAE encodes the codes of the plates, and returns them about as bright.
    encoded = g.add("VAEEncode", vae=vae, pixels=loaded(g)[1])
    light = g.add("LTX2AVDecodeHDR", video_vae=vae, latent=encoded, curve=curve, colours="srgb-linear")
    g.dump("codes", image=g.add("VAEDecode", vae=vae, samples=encoded))
    g.dump("light", image=light)
    result = server.run(g.prompt, timeout_s=120)
    codes, found = (result.tensors(name)["image"].movedim(-1, 1) for name in ("codes", "light"))
    expected = (
        logc3_decode(codes).clamp(min=0) if curve == "logc3" else HDR_SPACES["srgb-linear"].of_codes(codes)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_guide_with_every_frame_twice_is_that_of_twice_the_frames(
    server: Server, models: TinyModels
) -> None:
    g = Graph()
    vae, text = checkpoint(g, models)[1], prompt(g, text_encoder(g, models))
    clip = image(g, frames=FRAMES, width=SIDE)
    at = [g.add("ImageFromBatch", image=clip, batch_index=n, length=1) for n in range(FRAMES)]
    twice = at[0]
    for frame in [at[n // 2] for n in range(1, 2 * FRAMES - 1)]:
        twice = g.add("ImageBatch", image1=twice, image2=frame)
    place = {"positive": text, "negative": text[1], "video_vae": vae, "latent": our_latent(g, 2 * FRAMES - 1)}
    place |= {"frame": 0, "strength": 1.0, "attention_strength": 0.0, "crf": 0, "downscale": 1}
    for name, images, doubled in (("ours", clip, True), ("core", twice, False), ("once", clip, False)):
        guided = g.add("LTX2AVAddGuide", image=images, double_frames=doubled, **place)
        g.dump(name, latent=guided[2])
    result = server.run(g.prompt, timeout_s=120)
    assert_equal(result)
    frames = {name: result.tensors(name)["latent/video"].shape[2] for name in ("ours", "once")}
    assert frames == {"ours": 3 + 3, "once": 3 + 2}


def test_every_second_frame_of_each_clip_is_decoded_to_light(
    server: Server, models: TinyModels, plates: list[torch.Tensor]
) -> None:
    g = Graph()
    vae = checkpoint(g, models)[1]
    encoded = g.add("VAEEncode", vae=vae, pixels=loaded(g)[1])
    two = g.add("RepeatLatentBatch", samples=encoded, amount=2)
    for name, second in (("all", False), ("second", True)):
        light = g.add(
            "LTX2AVDecodeHDR",
            video_vae=vae,
            latent=two,
            curve="acescct",
            colours="acescg",
            every_second_frame=second,
        )
        g.dump(name, image=light)
    result = server.run(g.prompt, timeout_s=120)
    every, second = (result.tensors(name)["image"] for name in ("all", "second"))
    assert len(every) == 2 * FRAMES
    # An odd number of frames: both clips begin anew.
    assert torch.equal(second, torch.cat([clip[::2] for clip in every.split(FRAMES)]))


def test_inputs_of_sdr_images_refuse_light(
    server: Server, models: TinyModels, plates: list[torch.Tensor]
) -> None:
    def guided(g: Graph, vae: Link, images: Link) -> Link:
        return g.add(
            "LTX2AVImgToVideoInplace",
            video_vae=vae,
            image=images,
            latent=our_latent(g),
            strength=1.0,
            crf=0,
        )

    def edited(g: Graph, vae: Link, images: Link) -> Link:
        return g.add("LTX2AVSound", video_vae=vae, images=images, fps=FPS, ceiling=-3.0)

    for make in (guided, edited):
        g = Graph()
        g.dump("latent", latent=make(g, checkpoint(g, models)[1], loaded(g)))
        with pytest.raises(GraphError, match="linear light"):
            server.run(g.prompt, timeout_s=120)


def test_a_file_that_is_not_there_is_refused(server: Server, plates: list[torch.Tensor]) -> None:
    for name in ("gone.exr", "../plates"):
        g = Graph()
        g.dump("light", image=loaded(g, name))
        with pytest.raises(GraphError, match="no EXR image"):
            server.run(g.prompt)
