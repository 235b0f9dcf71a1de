"""The pack inside a running host: registration, previews, stopping, memory, and what users are told."""

from __future__ import annotations

import pytest
import torch
from host_graph import CROSS_MODAL, Graph, Loaded, Recipe, Whose, load, sample
from host_server import GraphError, Server
from tiny_models import GENERATIONS, TinyModels
from torch import Tensor

PREFIX = "LTX2AV"


def graph(
    models: TinyModels, recipe: Recipe, probe: str = "", whose: Whose = "ours", **options: object
) -> Graph:
    """A sampling graph on our model, with a probe node between loader and sampler where one is named."""
    g = Graph()
    loaded = load(g, models, "2.3", model=whose, vae="core")
    if probe:
        model = g.add(probe, model=loaded.model, **options)
        loaded = Loaded(model, loaded.vae, loaded.audio_vae, loaded.clip)
    g.dump("latent", latent=sample(g, loaded, recipe))
    return g


def failure(server: Server, g: Graph) -> str:
    with pytest.raises(GraphError) as caught:
        server.run(g.prompt)
    return str(caught.value)


def test_the_pack_is_imported_and_its_ids_are_its_own(server: Server) -> None:
    failed = [line for line in server.log().splitlines() if "IMPORT FAILED" in line]
    assert not [line for line in failed if "comfyui-ltx2" in line], failed
    nodes = server.get("/object_info")
    ours = {i for i, node in nodes.items() if node["python_module"].endswith("comfyui-ltx2")}
    assert all(i.startswith(PREFIX) for i in ours), ours
    foreign = {i for i in nodes if i.startswith(PREFIX)} - ours
    assert not foreign, f"taken by others: {foreign}"


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_host_takes_our_model_for_one_of_the_family(
    server: Server, models: TinyModels, generation: str
) -> None:
    g, reports = Graph(), {}
    for whose in ("ours", "core"):
        g = Graph()
        model = load(g, models, generation, model=whose).model
        g.add("LTX2ProbeModel", model=g.add("LTX2ProbeLora", model=model, name=models.ic_lora, strength=1.0))
        reports[whose] = server.run(g.prompt).report()
    ours, core = reports["ours"], reports["core"]
    assert ours["is_ltxav"]
    assert ours["host_layers"]
    assert ours["factory_keys_equal"]
    assert ours["keys"] == core["keys"]
    assert ours["family"] == core["family"]
    assert ours["patches"] == core["patches"] > 0
    assert ours["lora_metadata"] == {"reference_downscale_factor": "2"}


def test_an_av_latent_is_decoded_by_the_tiled_node_too(server: Server, models: TinyModels) -> None:
    g = Graph()
    loaded = load(g, models, "2.3", model="ours")
    latent = sample(g, loaded, Recipe(steps=1, cfg=1.0))
    tiles = {"tile_size": 64, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
    g.dump("tiled", image=g.add("VAEDecodeTiled", samples=latent, vae=loaded.vae, **tiles))
    g.dump("whole", image=g.add("VAEDecode", samples=latent, vae=loaded.vae))
    result = server.run(g.prompt)
    torch.testing.assert_close(result.tensors("tiled")["image"], result.tensors("whole")["image"])


def test_previews_arrive_while_an_av_latent_is_sampled(server: Server, models: TinyModels) -> None:
    messages = server.listen(graph(models, Recipe(steps=20)).prompt, preview_method="latent2rgb")
    images = [m for m in messages if isinstance(m, bytes)]
    assert len(images) >= 2
    assert all(b"\xff\xd8\xff" in image[:64] for image in images), "previews are JPEG"
    steps = [m["data"]["value"] for m in messages if isinstance(m, dict) and m["type"] == "progress"]
    assert 20 in steps


def test_previews_do_not_change_the_result(server: Server, models: TinyModels) -> None:
    def sampled(method: str) -> dict[str, Tensor]:
        g = graph(models, Recipe(steps=3))
        return server.wait(server.submit(g.prompt, preview_method=method)).tensors("latent")

    assert_equal(sampled("none"), sampled("latent2rgb"))


def test_a_run_stops_within_a_step(server: Server, models: TinyModels) -> None:
    g = graph(models, Recipe(), "LTX2ProbeInterrupt")
    with pytest.raises(GraphError) as stopped:
        server.run(g.prompt)
    kinds = [kind for kind, _ in stopped.value.detail["status"]["messages"]]
    assert "execution_interrupted" in kinds, str(stopped.value)


def test_a_run_stops_when_the_user_interrupts_it(server: Server, models: TinyModels) -> None:
    prompt_id = server.submit(graph(models, Recipe(steps=5000)).prompt)
    while server.get("/queue")["queue_running"] == []:
        pass
    server.post("/interrupt", {})
    with pytest.raises(GraphError) as stopped:
        server.wait(prompt_id)
    assert "execution_interrupted" in [kind for kind, _ in stopped.value.detail["status"]["messages"]]
    server.run(graph(models, Recipe()).prompt)


def test_models_come_back_after_the_host_unloaded_them(server: Server, models: TinyModels) -> None:
    before = server.run(graph(models, Recipe()).prompt).tensors("latent")
    server.free(unload_models=True, free_memory=True)
    loads = server.loads()
    assert_equal(before, server.run(graph(models, Recipe()).prompt).tensors("latent"))
    assert server.loads() > loads, "they were unloaded"


@pytest.mark.parametrize("off", ["a2v_cross_attn", "v2a_cross_attn", "a2v_cross_attn,v2a_cross_attn"])
def test_the_hosts_switches_between_the_streams_are_honoured(
    server: Server, models: TinyModels, off: str, old_levels: bool
) -> None:
    if old_levels and "," not in off:
        pytest.skip("core up to 0.22 computes the attention that is left on from the wrong noise level")

    def sampled(whose: Whose) -> dict[str, Tensor]:
        g = graph(models, Recipe(), "LTX2ProbeStreams", whose, off=off)
        return server.run(g.prompt).tensors("latent")

    core, ours = sampled("core"), sampled("ours")
    for name, tensor in core.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-4)
    plain = server.run(graph(models, Recipe()).prompt).tensors("latent")
    assert not all(torch.allclose(plain[name], ours[name], atol=1e-3) for name in ours)


@pytest.mark.parametrize("off", ["run_vx", "run_ax"])
def test_a_stream_that_is_switched_off_is_what_it_is_on_core_and_attended_to_in_every_step(
    server: Server, models: TinyModels, off: str, old_levels: bool
) -> None:
    # Core up to 0.22 is an oracle only where nothing passes between the streams.
    off = f"{off},{CROSS_MODAL}" if old_levels else off
    core, ours = (
        server.run(graph(models, Recipe(steps=3), "LTX2ProbeStreams", whose, off=off).prompt).tensors(
            "latent"
        )
        for whose in ("core", "ours")
    )
    assert core.keys() == ours.keys()
    for name in core:
        torch.testing.assert_close(ours[name], core[name], rtol=1e-4, atol=1e-4)


def test_a_file_without_a_transformer_is_named(server: Server, models: TinyModels) -> None:
    g = Graph()
    g.add("LTX2ProbeModel", model=g.add("LTX2ProbeLoadModel", ckpt_name=models.broken["upscaler"]))
    message = failure(server, g)
    assert "ValueError" in message
    assert "has no transformer" in message
    assert "latent upsampler" in message


def test_a_cut_off_download_is_named(server: Server, models: TinyModels) -> None:
    g = Graph()
    g.add("LTX2ProbeModel", model=g.add("LTX2ProbeLoadModel", ckpt_name=models.broken["truncated"]))
    assert "truncated" in failure(server, g)


def test_missing_weights_are_an_error_and_not_noise(server: Server, models: TinyModels) -> None:
    g = Graph()
    g.add("LTX2ProbeModel", model=g.add("LTX2ProbeLoadModel", ckpt_name=models.broken["incomplete"]))
    message = failure(server, g)
    assert "1 missing" in message
    assert "proj_out.weight" in message


def test_a_lora_of_another_model_is_an_error(server: Server, models: TinyModels) -> None:
    g = Graph()
    model = load(g, models, "2.3", model="ours").model
    g.add("LTX2ProbeModel", model=g.add("LTX2ProbeLora", model=model, name=models.foreign_lora, strength=1.0))
    message = failure(server, g)
    assert "0 of 16 layers" in message
    assert "another model" in message


def test_text_of_another_checkpoint_is_an_error(server: Server, models: TinyModels) -> None:
    g = Graph()
    loaded = load(g, models, "2.3", model="ours", vae="core")
    other = load(g, models, "2.0", model="core").clip
    g.dump("latent", latent=sample(g, Loaded(loaded.model, loaded.vae, loaded.audio_vae, other), Recipe()))
    assert "same checkpoint" in failure(server, g)


def test_a_text_encoder_without_a_projection_is_an_error(server: Server, models: TinyModels) -> None:
    g = Graph()
    clip = g.add("LTX2ProbeLoadClip", text_encoder=models.text_encoder, ckpt_name=models.broken["upscaler"])
    g.dump("cond", conditioning=g.add("CLIPTextEncode", clip=clip, text="a"))
    assert "has no text projection" in failure(server, g)


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(b[name], tensor, rtol=0, atol=0)
