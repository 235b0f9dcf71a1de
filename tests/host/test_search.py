"""Words that people type into the page's node search find the node that does it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import ComfyPage, comfy_page
from host_server import Server

WORDS = {
    "train": "Train LoRA",
    "fine-tune": "Train LoRA",
    "image to video": "Img To Video Inplace",
    "i2v": "Img To Video Inplace",
    "first frame": "Img To Video Inplace",
    "start image": "Img To Video Inplace",
    "animate image": "Img To Video Inplace",
    "last frame": "Add Guide",
    "end frame": "Add Guide",
    "keyframe": "Add Guide",
    "flf2v": "Add Guide",
    "control video": "Add Guide",
    "ic-lora": "Add Guide",
    "pose": "Add Guide",
    "depth": "Add Guide",
    "control": "Load LoRA",
    "canny": "Canny Edges",
    "edges": "Canny Edges",
    "lineart": "Canny Edges",
    "lipsync": "Set Audio",
    "lip sync": "Set Audio",
    "talking": "Set Audio",
    "talking head": "Set Audio",
    "a2v": "Set Audio",
    "audio to video": "Set Audio",
    "speech": "Set Audio",
    "foley": "Video To Audio",
    "v2a": "Video To Audio",
    "sound effects": "Video To Audio",
    "soundtrack": "Video To Audio",
    "music": "Text To Audio",
    "t2a": "Text To Audio",
    "text to audio": "Text To Audio",
    "voice": "Reference Audio",
    "voice clone": "Reference Audio",
    "speaker": "Reference Audio",
    "seconds": "Clip Plan",
    "length": "Clip Plan",
    "duration": "Clip Plan",
    "resolution": "Clip Plan",
    "fps": "Clip Plan",
    "text to video": "Clip Plan",
    "t2v": "Clip Plan",
    "inpaint": "Retake",
    "edit video": "Retake",
    "redo": "Retake",
    "regenerate": "Retake",
    "mask": "Audio Video Mask",
    "freeze audio": "Audio Video Mask",
    "continue": "Extend",
    "extend": "Extend",
    "longer": "Extend",
    "upscale": "Latent Upscale",
    "hires": "Latent Upscale",
    "second stage": "Next Stage",
    "low vram": "Spatial Tiles",
    "out of memory": "Memory Plan",
    "teacache": "Speed",
    "loop": "Long Video",
    "minutes": "Long Video",
    "timeline": "Long Video",
    "camera": "Load LoRA",
    "lora": "Load LoRA",
    "gemma": "Load Text Encoder",
    "load model": "Load All",
    "ksampler": "Sample Stage",
    "negative prompt": "Prompt",
    "res_2s": "Sampler",
    "vae decode": "Decode To Video",
    "crf": "Preprocess Image",
    "nag": "Guider",
    "dfr": "Sample DFR",
    "high frame rate": "Sample DFR",
    "dub": "Dub",
    "dubbing": "Dub",
    "exr": "Load EXR",
    "hdr": "Decode HDR",
    "save exr": "Save HDR",
    "prompt enhancer": "Enhance Prompt",
    "prompt builder": "Build Prompt",
    "keywords": "Build Prompt",
    "which model": "Choose Run",
    "best settings": "Choose Run",
    "rewrite prompt": "Enhance Prompt",
    "auto length": "Duration Predictor",
    "avatar": "Set Audio",
    "dialogue": "Set Audio",
    "voice over": "Text To Audio",
    "text to speech": "Text To Audio",
    "sfx": "Video To Audio",
    "mmaudio": "Video To Audio",
    "lipdub": "Dub",
    "controlnet": "Add Guide",
    "video to video": "Add Guide",
    "v2v": "Add Guide",
    "reference video": "Add Guide",
    "iclora": "Load LoRA",
    "extend video": "Extend",
    "multi prompt": "Prompt By Time",
    "refine": "Next Stage",
    "audio mask": "Audio Video Mask",
    "frame count": "Clip Plan",
    "offload": "Memory Plan",
    "apg": "Stream Guidance",
    "fp8": "Load Checkpoint",
}
"""What people type -> the name of the node on the page, without the pack's prefix."""

FIELD = "input[role=combobox]"
FOUND = "() => [...document.querySelectorAll('[role=option]')].map((option) => option.textContent)"
NONE_LEFT = "() => document.querySelectorAll('[role=option]').length === 0"


@pytest.fixture(scope="module")
def search(server: Server, chromium: str) -> Iterator[ComfyPage]:
    """The page with the search for nodes open."""
    with comfy_page(server.port, chromium) as page:
        page.page.evaluate("() => app.graph.clear()")
        page.page.mouse.dblclick(800, 450)
        page.page.wait_for_selector(FIELD)
        yield page


@pytest.mark.parametrize("word", WORDS)
def test_a_word_finds_its_node(search: ComfyPage, word: str):
    # An unknown word empties the list first, so that what is read next belongs to this word.
    search.page.fill(FIELD, "zzzzqqqq")
    search.page.wait_for_function(NONE_LEFT)
    search.page.fill(FIELD, word)
    name = f"LTX-2 {WORDS[word]}"
    search.page.wait_for_function("() => document.querySelectorAll('[role=option]').length > 0")
    search.page.wait_for_timeout(150)
    found = search.page.evaluate(FOUND)
    ours = [text for text in found if text.startswith("LTX-2 ")]
    assert any(text.startswith(name) for text in ours), f"{word}: {[text[:40] for text in found]}"
