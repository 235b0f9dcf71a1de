"""State dicts: the released key tables, and what a strict load takes."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.config import VideoVAEConfig, video_vae_config
from ltx2_core.video_vae import OPTIONAL_KEYS, PerChannelStatistics, VideoDecoder, VideoEncoder, VideoVAE


def released_20() -> VideoVAEConfig:
    return video_vae_config({})


def released_23() -> VideoVAEConfig:
    down = [("space", 2, 6), ("time", 2, 4), ("all", 2, 2), ("all", 1, 2)]
    up = [("space", 2, 6), ("time", 2, 4), ("all", 1, 2), ("all", 2, 2)]
    vae = {"spatial_padding_mode": "zeros"}
    for name, suffix, steps in (("encoder_blocks", "_res", down), ("decoder_blocks", "", up)):
        blocks: list[list[object]] = [["res_x", {"num_layers": 4}]]
        for kind, multiplier, layers in steps:
            blocks.append([f"compress_{kind}{suffix}", {"multiplier": multiplier}])
            blocks.append(["res_x", {"num_layers": layers}])
        vae[name] = blocks
    return video_vae_config({"vae": vae})


def convs(width: int, layers: int) -> list[tuple[int, int]]:
    return [(width, width)] * (2 * layers)


def table(
    first: tuple[int, int], *groups: list[tuple[int, int]], last: tuple[int, int]
) -> list[tuple[int, int]]:
    return [first, *(shape for group in groups for shape in group), last]


ENCODER_20 = table(
    (128, 48),
    *(convs(128, 4), [(64, 128)], convs(256, 6), [(256, 256)], convs(512, 6), [(128, 512)]),
    *(convs(1024, 2), [(256, 1024)], convs(2048, 2)),
    last=(129, 2048),
)
DECODER_20 = table(
    (1024, 128),
    *(convs(1024, 5), [(4096, 1024)], convs(512, 5), [(2048, 512)]),
    *(convs(256, 5), [(1024, 256)], convs(128, 5)),
    last=(48, 128),
)
ENCODER_23 = table(
    (128, 48),
    *(convs(128, 4), [(64, 128)], convs(256, 6), [(256, 256)], convs(512, 4), [(128, 512)]),
    *(convs(1024, 2), [(128, 1024)], convs(1024, 2)),
    last=(129, 1024),
)
DECODER_23 = table(
    (1024, 128),
    *(convs(1024, 2), [(4096, 1024)], convs(512, 2), [(4096, 512)], convs(512, 4), [(512, 512)]),
    *(convs(256, 6), [(512, 256)], convs(128, 4)),
    last=(48, 128),
)


@pytest.mark.parametrize(
    ("config", "half", "shapes", "tensors", "values"),
    [
        (released_20(), VideoEncoder, ENCODER_20, 94, 694_099_137),
        (released_20(), VideoDecoder, DECODER_20, 92, 528_380_976),
        (released_23(), VideoEncoder, ENCODER_23, 86, 318_937_153),
        (released_23(), VideoDecoder, DECODER_23, 86, 407_169_328),
    ],
)
def test_each_half_has_the_released_tensors(
    config: VideoVAEConfig,
    half: type[VideoEncoder | VideoDecoder],
    shapes: list[tuple[int, int]],
    tensors: int,
    values: int,
) -> None:
    state = half(config, device="meta").state_dict()
    assert len(state) == tensors
    assert sum(t.numel() for t in state.values()) == values
    weights = {name: t.shape for name, t in state.items() if name.endswith(".conv.weight")}
    assert list(weights.values()) == [(*shape, 3, 3, 3) for shape in shapes]
    assert all(state[name.replace("weight", "bias")].shape == shape[:1] for name, shape in weights.items())
    prefix = "encoder." if half is VideoEncoder else "decoder."
    statistics = {"per_channel_statistics.mean-of-means", "per_channel_statistics.std-of-means"}
    assert {name for name in state if not name.startswith(prefix)} == statistics


def test_keys_have_the_released_names() -> None:
    names = VideoVAE(released_20(), device="meta").state_dict().keys()
    assert {
        "encoder.conv_in.conv.weight",
        "encoder.down_blocks.0.res_blocks.3.conv2.conv.bias",
        "encoder.down_blocks.7.conv.conv.weight",
        "encoder.conv_out.conv.bias",
        "decoder.conv_in.conv.weight",
        "decoder.up_blocks.5.conv.conv.bias",
        "decoder.up_blocks.6.res_blocks.4.conv1.conv.weight",
        "decoder.conv_out.conv.weight",
    } <= names


def test_both_halves_share_one_copy_of_the_statistics() -> None:
    state = VideoVAE(released_23(), device="meta").state_dict()
    assert len(state) == 86 + 86 - 2


def test_a_strict_load_takes_the_unused_statistics_and_nothing_else() -> None:
    decoder = VideoDecoder(released_23(), device="meta")
    state = decoder.state_dict()
    extra = {key: torch.zeros(128) for key in OPTIONAL_KEYS}
    decoder.load_state_dict({**state, **extra}, strict=True, assign=True)
    with pytest.raises(RuntimeError, match="mean-of-modes"):
        decoder.load_state_dict({**state, "per_channel_statistics.mean-of-modes": torch.zeros(128)})
    del state["per_channel_statistics.std-of-means"]
    with pytest.raises(RuntimeError, match="std-of-means"):
        decoder.load_state_dict({**state, **extra})


def test_halves_that_compress_differently_are_refused() -> None:
    blocks = [["res_x", 1], ["compress_all", {"multiplier": 2}], ["res_x", 1]]
    with pytest.raises(ValueError, match="compress alike"):
        VideoVAE(video_vae_config({"vae": {"decoder_blocks": blocks}}), device="meta")


def test_normalising_and_un_normalising_undo_each_other() -> None:
    statistics = PerChannelStatistics(2)
    statistics.load_state_dict(
        {"mean-of-means": torch.tensor([1.0, -2.0]), "std-of-means": torch.tensor([2.0, 0.5])}
    )
    z = torch.randn(1, 2, 3, 4, 5)
    normalised = statistics.normalize(z)
    torch.testing.assert_close(normalised[:, 1], (z[:, 1] + 2.0) / 0.5)
    torch.testing.assert_close(statistics.un_normalize(normalised), z)
