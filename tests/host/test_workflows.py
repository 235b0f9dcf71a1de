"""Every shipped workflow runs as it is on the tiny model set and leaves a file that plays."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import av
import pytest
from host_server import GraphError, Result, Server

from ltx2_core.media import read_metadata

WORKFLOWS = Path(__file__).resolve().parents[2] / "example_workflows"
NAMES = sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))
FRAMES, SIZE, FPS, CLIP_S = 49, (256, 192), 24, 49 / 24


def prompt_of(name: str) -> dict:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def host(server: Server) -> Server:
    for file in (WORKFLOWS / "input").iterdir():
        shutil.copy(file, server.base / "input" / file.name)
    return server


def saved_video(result: Result) -> Path:
    (saved,) = (output["images"][0] for output in result.outputs.values() if "images" in output)
    return result.output / saved["subfolder"] / saved["filename"]


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_leaves_a_video_with_sound_of_the_planned_size_and_length(host, name):
    path = saved_video(host.run(prompt_of(name), timeout_s=300))
    with av.open(str(path)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert (video.codec_context.width, video.codec_context.height) == SIZE
        assert video.average_rate == FPS
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert sum(1 for _ in file.decode(video)) == FRAMES
        file.seek(0)
        heard = sum(frame.samples for frame in file.decode(audio)) / audio.rate
        # AAC works in blocks of 1024 samples.
        assert CLIP_S - 0.05 < heard < CLIP_S + 3 * 1024 / audio.rate


def test_the_saved_file_carries_the_graph_and_the_streams_that_were_written_first(host):
    name = "text_to_video_distilled"
    before = set((host.base / "temp").glob("ltx2_*.mp4"))
    graph = prompt_of(name)
    for node in graph.values():
        if "seed" in node["inputs"]:
            node["inputs"]["seed"] += 1
    path = saved_video(host.run(graph, timeout_s=300))
    assert json.loads(read_metadata(path)["prompt"]) == graph
    (written,) = set((host.base / "temp").glob("ltx2_*.mp4")) - before
    assert packets(path) == packets(written), "saving copies the streams; encoding twice would cost quality"


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as file:
        return sorted(bytes(packet) for packet in file.demux() if packet.size)


def test_the_given_sound_is_the_sound_of_the_file(host):
    path = saved_video(host.run(prompt_of("audio_image_to_video"), timeout_s=300))
    given = decoded(WORKFLOWS / "input" / "sound.wav")
    heard = decoded(path)[: len(given)]
    given = given[: len(heard)]
    assert (given * heard).sum() / (given.norm() * heard.norm()) > 0.95


def decoded(path: Path):
    from ltx2_core.media import read_audio

    return read_audio(path)[0].mean(dim=0)


def test_a_run_stops_within_seconds_when_the_user_interrupts(host):
    graph = prompt_of("text_to_video_two_stages")
    for node in graph.values():
        if "steps" in node["inputs"]:
            node["inputs"] |= {"steps": 2000, "seed": 7, "schedule": "LTX-2 scheduler"}
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
    """The progress bar of the terminal shows that steps are being taken."""
    end, before = time.monotonic() + 120, host.log().count("/2000")
    while host.log().count("/2000") <= before:
        assert time.monotonic() < end, host.log()[-2000:]
        time.sleep(0.2)


def test_the_host_still_works_after_unloading_everything(host):
    host.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(1)
    graph = prompt_of("text_to_video_distilled")
    for node in graph.values():
        if "seed" in node["inputs"]:
            node["inputs"]["seed"] += 2
    assert saved_video(host.run(graph, timeout_s=300)).is_file()


def test_the_template_browser_lists_every_workflow(host):
    listed = host.get("/api/workflow_templates")
    assert set(NAMES) <= set(listed["comfyui-ltx2"])
