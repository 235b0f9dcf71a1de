"""The transformer against reference velocities."""

import re
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ltx2_core.config import transformer_config
from ltx2_core.loading.components import as_comfy
from ltx2_core.memory import BlockStreaming
from ltx2_core.transformer import Modality, Perturbation, Perturbations, Runner, Transformer
from ltx2_core.transformer.fused import Fused
from ltx2_core.transformer.packed import pack_projections
from ltx2_core.transformer.shards import Shards
from ltx2_core.types import Numerics

sys.path.insert(0, str(Path(__file__).parents[1]))

from processes import run_processes

TOLERANCE = 1e-5
PREFIX = "model.diffusion_model."
CONNECTORS = ("video_embeddings_connector.", "audio_embeddings_connector.")
PROMPT_ADALN = ("prompt_adaln_single.", "audio_prompt_adaln_single.")
SWITCHES = {
    "SKIP_VIDEO_SELF_ATTN": "video_self_attention",
    "SKIP_AUDIO_SELF_ATTN": "audio_self_attention",
    "SKIP_A2V_CROSS_ATTN": "a2v",
    "SKIP_V2A_CROSS_ATTN": "v2a",
}


@lru_cache(maxsize=8)
def weights_at(path):
    state = load_file(path)
    return {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}


def load(config, golden):
    """The network with the weights of ``golden``; raises when they are of another shape."""
    drop = CONNECTORS if config.prompt_adaln else (*CONNECTORS, *PROMPT_ADALN)
    state = {k: v for k, v in weights_at(golden.path).items() if not k.startswith(drop)}
    model = Transformer(config, device="meta")
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def weights_fixtures(golden):
    """The fixture that the sidecar names, or every one in the folder that holds transformer weights."""
    if golden.sidecar.get("weights"):
        return [golden.source("weights")]
    return [g for g in [golden, *golden.beside()] if g.has(f"{PREFIX}patchify_proj.weight")]


def model_of(golden, numerics=Numerics.OFFICIAL):
    config = transformer_config(golden.config)
    if numerics.is_comfy:
        config = as_comfy(config, numerics)
    for candidate in weights_fixtures(golden):
        try:
            return load(config, candidate)
        except RuntimeError:
            continue
    pytest.fail(f"no weights fixture fits {golden.name}")


def inputs_of(golden):
    own = golden.any(lambda n: n.startswith("in/"))
    return (golden if own else golden.source("inputs_from")).tensors()


def modality(tensors, stream, attention_mask="attention_mask"):
    def get(name):
        return tensors.get(f"in/{stream}_{name}")

    if get("tokens") is None:
        return None
    return Modality(
        tokens=get("tokens"),
        timesteps=get("timesteps").flatten(1),
        sigma=get("sigma"),
        positions=get("positions"),
        context=get("context"),
        context_mask=get("context_mask"),
        attention_mask=get(attention_mask),
        keyframes=get("keyframes_mask"),
    )


def perturbation(entries):
    return Perturbation(
        **{SWITCHES[name]: "all" if blocks is None else tuple(blocks) for name, blocks in entries}
    )


def cases(golden, tensors):
    """(output prefix, video, audio, perturbations) of every run that the fixture stores."""
    video, audio = modality(tensors, "video"), modality(tensors, "audio")
    if golden.any(lambda n: re.fullmatch(r"out/(video|audio)", n)):
        yield "out/", video, audio, None
    for stream in ("video", "audio"):
        if golden.has(f"out/{stream}_only"):
            yield "only", video if stream == "video" else None, audio if stream == "audio" else None, None
    for name, samples in golden.sidecar.get("variants", {}).items():
        yield f"out/{name}/", video, audio, Perturbations(tuple(perturbation(entries) for entries in samples))
    for name in tensors:
        if match := re.fullmatch(r"in/video_attention_mask_(\w+)", name):
            yield f"out/{match[1]}/", modality(tensors, "video", f"attention_mask_{match[1]}"), audio, None


def plain(model, runs):
    with torch.inference_mode():
        return [list(model(*run)) for run in runs]


def chunked(model, runs):
    return plain(Runner(model, chunk_tokens=5), runs)


def fused(model, runs):
    kernels = Fused()
    assert pack_projections(model.requires_grad_(False).transformer_blocks) > 0
    velocities = plain(Runner(model, fused=kernels), runs)
    assert kernels.problem is None
    return velocities


def streamed(model, runs):
    streaming = BlockStreaming(model, "cpu", resident=1)
    try:
        return plain(model, runs)
    finally:
        streaming.close()


def sharded(model, runs):
    return plain(Runner(model, shards=Shards()), runs)


def two_processes(model, runs):
    if model.config.heads % 2:
        pytest.skip(f"two processes cannot share {model.config.heads} heads")
    first, second = run_processes(2, sharded, model, runs)
    for one, other in zip(first, second, strict=True):
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(one, other, strict=True))
    return first


# Without a GPU the kernels are interpreted, which takes 5 to 25 seconds a case.
INTERPRETED = pytest.param(fused, marks=pytest.mark.slow)


@pytest.mark.golden("dit", "keyframe_slots")
@pytest.mark.parametrize("mode", [plain, chunked, INTERPRETED, streamed, two_processes])
def test_velocities_match(golden, mode):
    model, checked = model_of(golden), set()
    every = list(cases(golden, inputs_of(golden)))
    for (prefix, *_), velocities in zip(every, mode(model, [run for _, *run in every]), strict=True):
        for stream, velocity in zip(("video", "audio"), velocities, strict=True):
            name = f"out/{stream}_only" if prefix == "only" else prefix + stream
            if velocity is None or name not in golden.names:
                continue
            torch.testing.assert_close(velocity, golden.tensors()[name], rtol=0, atol=TOLERANCE)
            checked.add(name)
    assert checked == {n for n in golden.names if n.startswith("out/")}


@pytest.mark.golden("core_velocities")
@pytest.mark.parametrize("mode", [plain, chunked, INTERPRETED, two_processes])
def test_velocities_of_a_later_core_match_in_its_numerics(golden, mode):
    expected = golden.tensors()
    for name in {key.split("/")[0] for key in expected}:
        source = golden.sibling(name)
        model = model_of(source, Numerics.COMFY_033)
        tensors = inputs_of(source)
        run = (modality(tensors, "video"), modality(tensors, "audio"), None)
        for stream, velocity in zip(("video", "audio"), *mode(model, [run]), strict=True):
            torch.testing.assert_close(velocity, expected[f"{name}/{stream}"], rtol=0, atol=TOLERANCE)
