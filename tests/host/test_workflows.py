"""Every shipped workflow runs as it is on the tiny model set and leaves a file that plays."""

from __future__ import annotations

import json
import time
from pathlib import Path

import av
import pytest
from host_server import GraphError, Server
from saved import decoded, saved_video
from workflow_ltxv_tables import LTXV
from workflow_released_tables import RELEASED
from workflow_runs import EXAMPLES, TABLES, Runs, prompt_of

NAMES = sorted(TABLES)
FRAMES, SIZE, FPS = 49, (128, 128), 25
CONTROL = {"ic_lora_control", "ic_lora_canny", "ic_lora_image"}
LENGTHS = {
    **dict.fromkeys((*CONTROL, "ic_lora_two_stages", "ic_lora_image_two_stages", "ic_lora_union"), 25),
    "extend_video": FRAMES + 32,
    "mask_past_the_end": 65,
    "long_video": 121,
}
"""Frames of the workflows that make more or fewer than the others."""


def test_every_table_has_its_files():
    assert {path.stem for path in (EXAMPLES / "api").glob("*.json")} == TABLES.keys() | RELEASED.keys()


# DFR needs LTX-2.5, and LTX-Video other files; both have tests of their own.
@pytest.mark.parametrize("name", [name for name in RELEASED if name not in ("ltx25_dfr", *LTXV)])
def test_a_workflow_of_released_files_runs_on_the_tiny_ones(runs: Runs, name: str):
    graph, tiny = prompt_of(name), runs.prompt("image_to_video_two_stages")
    files = {node["class_type"]: node["inputs"] for node in tiny.values()}
    for node in graph.values():
        for one, value in node["inputs"].items():
            if isinstance(value, str) and value.endswith(".safetensors"):
                node["inputs"][one] = files[node["class_type"]][one]
        if node["class_type"] == "LTX2AVClipPlan":
            node["inputs"] |= {"width": 128, "height": 128, "length": 0.6, "megapixels": 0.02}
    clip = decoded(saved_video(runs.server.run(graph, timeout_s=300)))
    assert clip.frames.shape == (17, 3, *SIZE)


OTHER_FILES = {"text_to_audio", "hdr_from_video"}
"""The workflows that save no video with the host's own node."""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OTHER_FILES])
def test_a_workflow_writes_a_video_with_audio_of_the_planned_size_and_length(runs: Runs, name: str):
    frames = LENGTHS.get(name, FRAMES)
    with av.open(str(runs.run(name).path)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        size = (video.codec_context.width, video.codec_context.height)
        assert size == ((128, 96) if name in CONTROL else SIZE)
        assert video.average_rate == FPS
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert sum(1 for _ in file.decode(video)) == frames
        file.seek(0)
        heard = sum(frame.samples for frame in file.decode(audio)) / audio.rate
        # AAC works in blocks of 1024 samples.
        assert frames / FPS - 1 / FPS < heard < frames / FPS + 3 * 1024 / audio.rate


def test_audio_alone_is_saved_with_the_requested_length(runs: Runs):
    result = runs.run("text_to_audio").result
    (saved,) = (output["audio"][0] for output in result.outputs.values() if "audio" in output)
    with av.open(str(result.output / saved["subfolder"] / saved["filename"])) as file:
        heard = sum(frame.samples for frame in file.decode(audio=0))
        assert heard == round(1.96 * file.streams.audio[0].rate)


def test_an_hdr_workflow_saves_images_and_a_master(runs: Runs):
    result = runs.run("hdr_from_video").result
    texts = [text for output in result.outputs.values() for text in output.get("text", ())]
    master = Path(next(text for text in texts if text.endswith(".mp4")))
    assert len(list(master.with_name(f"{master.stem}_exr").glob("*.exr"))) == FRAMES
    with av.open(str(master)) as file:
        video = file.streams.video[0]
        assert (video.codec_context.width, video.codec_context.height) == SIZE
        assert video.codec_context.pix_fmt == "yuv420p10le"
        assert len(file.streams.audio) == 1


def test_the_saved_file_carries_the_graph_and_the_streams_that_were_written_first(runs: Runs):
    from ltx2_core.media import read_metadata

    host = runs.server
    before = set((host.base / "temp").glob("ltx2_*.mp4"))
    graph = reseeded(runs, "text_to_video_distilled", 1)
    path = saved_video(host.run(graph, timeout_s=300))
    assert json.loads(read_metadata(path)["prompt"]) == graph
    (written,) = set((host.base / "temp").glob("ltx2_*.mp4")) - before
    assert packets(path) == packets(written), "saving copies the streams; encoding twice would cost quality"


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as file:
        return sorted(bytes(packet) for packet in file.demux() if packet.size)


def reseeded(runs: Runs, name: str, by: int) -> dict:
    """A workflow that has not run yet."""
    graph = runs.prompt(name)
    for node in graph.values():
        if "seed" in node["inputs"]:
            node["inputs"]["seed"] += by
    return graph


@pytest.mark.parametrize(
    ("name", "file"), [("audio_to_video", "knocks.wav"), ("audio_image_to_video", "sound.wav")]
)
def test_the_input_audio_is_the_audio_of_the_file(runs: Runs, name: str, file: str):
    from ltx2_core.media import read_audio

    given = read_audio(EXAMPLES / "input" / file)[0].mean(dim=0)
    heard = read_audio(runs.run(name).path)[0].mean(dim=0)[: len(given)]
    given = given[: len(heard)]
    assert (given * heard).sum() / (given.norm() * heard.norm()) > 0.95


def test_a_run_stops_within_seconds_when_the_user_interrupts(runs: Runs):
    host, graph = runs.server, runs.prompt("text_to_video_two_stages")
    for node in graph.values():
        if "steps" in node["inputs"]:
            node["inputs"] |= {"steps": 5000, "seed": 7, "schedule": "LTX-2 scheduler"}
    prompt_id = host.submit(graph)
    wait_for_sampling(host)
    host.post("/interrupt", {})
    start = time.monotonic()
    with pytest.raises(GraphError) as stopped:
        host.wait(prompt_id, timeout_s=60)
    kinds = [kind for kind, _ in stopped.value.detail["status"]["messages"]]
    assert "execution_interrupted" in kinds
    assert time.monotonic() - start < 20


def wait_for_sampling(host: Server) -> None:
    """The progress bar of the terminal counts sampling steps."""
    end, before = time.monotonic() + 120, host.log().count("/5000")
    while host.log().count("/5000") <= before:
        assert time.monotonic() < end, host.log()[-2000:]
        time.sleep(0.2)


def test_the_host_still_works_after_unloading_everything(runs: Runs):
    runs.run("text_to_video_distilled")
    runs.server.free(unload_models=True, free_memory=True)
    loads = runs.server.loads()
    graph = reseeded(runs, "text_to_video_distilled", 2)
    assert decoded(saved_video(runs.server.run(graph, timeout_s=300))).frames.shape[0] == FRAMES
    assert runs.server.loads() >= loads + 3, "text, transformer and decoders were unloaded"


def test_the_template_browser_lists_every_workflow(server: Server):
    listed = server.get("/api/workflow_templates")
    assert set(NAMES) <= set(listed["comfyui-ltx2"])


def test_the_shipped_files_are_what_the_tables_say(runs: Runs):
    known = runs.server.get("/object_info")
    for name, table in {**TABLES, **RELEASED}.items():
        shipped = prompt_of(name)
        for number, node in table.prompt(known).items():
            assert shipped[number]["class_type"] == node["class_type"], name
            assert node["inputs"].items() <= shipped[number]["inputs"].items(), f"{name}: write it again"
