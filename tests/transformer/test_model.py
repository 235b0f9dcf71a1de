"""Behaviour of the whole transformer at tiny size."""

from dataclasses import replace

import pytest
import torch

from ltx2_core.config import TransformerConfig
from ltx2_core.transformer import Modality, Perturbation, Perturbations, Transformer

RELEASED = {
    "2.0": (TransformerConfig(), 72, 3510),
    "2.3": (
        TransformerConfig(caption_projection=False, gated_attention=True, cross_attention_adaln=True),
        86,
        4186,
    ),
    "2.5": (
        TransformerConfig(
            caption_projection=False,
            gated_attention=True,
            cross_attention_adaln=True,
            ff_bias=False,
            keyframe_embedding=True,
        ),
        84,
        4091,
    ),
}


def run(model, video, audio, perturbations=None, **options):
    with torch.inference_mode():
        return model(video, audio, perturbations, **options)


def assert_same(actual, expected, tolerance=2e-5):
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-6, atol=tolerance)


def sample(modality, index):
    """One sample of a batch."""

    def cut(value):
        return value[index : index + 1] if isinstance(value, torch.Tensor) and len(value) > 1 else value

    return Modality(**{name: cut(value) for name, value in vars(modality).items()})


@pytest.mark.parametrize("generation", RELEASED)
def test_key_counts_are_those_of_the_released_checkpoints(generation):
    config, per_block, total = RELEASED[generation]
    keys = Transformer(config, device="meta").state_dict().keys()
    assert sum(k.startswith("transformer_blocks.7.") for k in keys) == per_block
    assert len(keys) == total


def test_the_released_size_is_18_9_billion_parameters():
    model = Transformer(TransformerConfig(), device="meta")
    assert round(sum(p.numel() for p in model.parameters()) / 1e9, 2) == 18.88


def test_a_sample_does_not_depend_on_the_rest_of_its_batch(model, streams):
    video, audio = (make(model.config) for make in streams)
    whole = run(model, video, audio)
    for index in range(2):
        alone = run(model, sample(video, index), sample(audio, index))
        assert_same(alone, [w[index : index + 1] for w in whole])


def test_one_timestep_a_sample_equals_the_same_timestep_on_every_token(model, streams):
    video, audio = (make(model.config) for make in streams)
    per_token = [
        replace(m, timesteps=m.timesteps.expand(-1, m.tokens.shape[1]).contiguous()) for m in (video, audio)
    ]
    assert_same(run(model, *per_token), run(model, video, audio))


def test_tokens_with_their_own_timestep_are_modulated_by_it(model, streams):
    video, audio = (make(model.config) for make in streams)
    timesteps = video.timesteps.repeat(1, video.tokens.shape[1])
    timesteps[:, :3] = 0
    changed = run(model, replace(video, timesteps=timesteps), audio)[0] - run(model, video, audio)[0]
    assert changed.abs().amax(dim=-1).min() > 1e-4


def test_an_empty_audio_stream_means_video_only(model, streams):
    video, audio = (make(model.config) for make in streams)
    empty = replace(
        audio,
        tokens=audio.tokens[:, :0],
        positions=audio.positions[:, :, :0],
        timesteps=audio.timesteps[:, :1],
    )
    with_empty, without = run(model, video, empty), run(model, video, None)
    assert with_empty[1] is None
    assert without[1] is None
    assert torch.equal(with_empty[0], without[0])


def test_cutting_both_cross_attentions_equals_two_runs_alone(model, streams):
    video, audio = (make(model.config) for make in streams)
    apart = Perturbations((Perturbation(a2v="all", v2a="all"),) * 2)
    alone = run(model, video, None)[0], run(model, None, audio)[1]
    assert_same(run(model, video, audio, apart), alone)


def test_perturbations_that_name_no_block_change_nothing(model, streams):
    video, audio = (make(model.config) for make in streams)
    for neutral in (Perturbation(), Perturbation(video_self_attention=(99,), a2v=[], v2a=range(5, 8))):
        actual = run(model, video, audio, Perturbations((neutral,) * 2))
        assert all(torch.equal(a, e) for a, e in zip(actual, run(model, video, audio), strict=True))


def test_a_perturbation_touches_only_its_own_sample(model, streams):
    video, audio = (make(model.config) for make in streams)
    skip = Perturbation(video_self_attention=[1], audio_self_attention="all", v2a=[0])
    plain = run(model, video, audio)
    both = run(model, video, audio, Perturbations((skip, skip)))
    mixed = run(model, video, audio, Perturbations((Perturbation(), skip)))
    for p, b, m in zip(plain, both, mixed, strict=True):
        assert_same([m[:1], m[1:]], [p[:1], b[1:]])
        assert (p - b).abs().max() > 1e-3


def test_a_disabled_stream_is_context_for_the_other_and_has_no_velocity(model, streams):
    video, audio = (make(model.config) for make in streams)
    velocity, none = run(model, video, replace(audio, enabled=False))
    assert none is None
    assert (velocity - run(model, video, None)[0]).abs().max() > 1e-4
    other_text = replace(audio, enabled=False, context=torch.zeros_like(audio.context))
    assert torch.equal(velocity, run(model, video, other_text)[0])


def test_each_streams_gate_follows_the_noise_level_of_the_other(model, streams):
    video, audio = (make(model.config) for make in streams)
    before = run(model, video, audio)
    after = run(model, video, replace(audio, sigma=audio.sigma * 0.5))
    assert (before[0] - after[0]).abs().max() > 1e-4


def test_text_behind_the_mask_is_not_seen(model, streams):
    video, audio = (make(model.config) for make in streams)
    mask = torch.tensor([[1, 1, 1, 0, 0]]).expand(2, -1)
    cut = run(model, replace(video, context=video.context[:, :3]), audio)
    assert_same(run(model, replace(video, context_mask=mask), audio), cut)
    additive = torch.where(mask > 0, 0.0, -1e9)
    assert_same(run(model, replace(video, context_mask=additive), audio), cut)


def test_tokens_that_nobody_may_look_at_do_not_change_the_others(model, streams):
    video, _ = (make(model.config) for make in streams)
    seen = video.tokens.shape[1] - 2
    mask = torch.ones(1, seen + 2, seen + 2)
    mask[:, :seen, seen:] = 0
    cut = replace(video, tokens=video.tokens[:, :seen], positions=video.positions[:, :, :seen])
    masked = run(model, replace(video, attention_mask=mask), None)[0]
    assert_same([masked[:, :seen]], run(model, cut, None)[:1])


def test_keyframe_markers_change_only_networks_that_know_them(model, streams):
    video, audio = (make(model.config) for make in streams)
    marked = replace(video, keyframes=torch.ones(2, video.tokens.shape[1], 1))
    same = torch.equal(run(model, marked, audio)[0], run(model, video, audio)[0])
    assert same is not model.config.keyframe_embedding


def test_tables_made_once_give_the_same_velocities(model, streams):
    video, audio = (make(model.config) for make in streams)
    tables = model.rope_tables(video.positions, audio.positions)
    actual, expected = run(model, video, audio, rope=tables), run(model, video, audio)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def test_tables_of_other_streams_are_refused(model23, streams):
    video, audio = (make(model23.config) for make in streams)
    with pytest.raises(ValueError, match="rope has no tables for video"):
        run(model23, video, audio, rope=model23.rope_tables(video.positions, None))


def test_a_run_can_be_stopped_before_any_block(model23, streams):
    video, audio = (make(model23.config) for make in streams)
    seen = []

    def stop(block):
        seen.append(block)
        if block == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(model23, video, audio, on_block=stop)
    assert seen == [0, 1]


def test_inputs_are_not_written_to(model, streams):
    video, audio = (make(model.config) for make in streams)
    copies = [replace(m, tokens=m.tokens.clone(), context=m.context.clone()) for m in (video, audio)]
    run(model, video, audio)
    for m, copy in zip((video, audio), copies, strict=True):
        assert torch.equal(m.tokens, copy.tokens)
        assert torch.equal(m.context, copy.context)


def test_gradients_reach_every_parameter(model, streams):
    video, audio = (make(model.config) for make in streams)
    marked = replace(video, keyframes=torch.ones(2, video.tokens.shape[1], 1))
    x, y = model(marked, audio)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(x.square().mean() + y.square().mean(), parameters, allow_unused=True)
    assert [n for n, g in zip(names, gradients, strict=True) if g is None] == []


def test_bfloat16_stays_close_to_float32(model, streams):
    video, audio = (make(model.config) for make in streams)
    low = Transformer(model.config, dtype=torch.bfloat16, device="meta")
    low.load_state_dict({k: v.bfloat16() for k, v in model.state_dict().items()}, assign=True)
    cast = [replace(m, tokens=m.tokens.bfloat16(), context=m.context.bfloat16()) for m in (video, audio)]
    for low_velocity, velocity in zip(run(low, *cast), run(model, video, audio), strict=True):
        assert low_velocity.dtype == torch.bfloat16
        assert (low_velocity.float() - velocity).std() < 0.05 * velocity.std()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": torch.ones(2, 3)}, r"timesteps must be \(2, 12\) or \(2, 1\)"),
        ({"sigma": torch.ones(1)}, r"sigma must be one value a sample, \(2,\)"),
        ({"positions": torch.zeros(1, 3, 5, 2)}, r"positions must be \(B, axes, 12, 2\)"),
        ({"tokens": torch.zeros(2, 6, 2, 2, 3)}, "Patchify the latent first"),
    ],
)
def test_streams_that_do_not_fit_together_are_refused(streams, model23, change, message):
    with pytest.raises(ValueError, match=message):
        streams[0](model23.config, **change)


def test_a_run_without_streams_or_with_the_wrong_batch_is_refused(streams, model23):
    video, audio = streams[0](model23.config), streams[1](model23.config, batch=1)
    with pytest.raises(ValueError, match="give video, audio or both"):
        run(model23, None, None)
    with pytest.raises(ValueError, match="same batch"):
        run(model23, video, audio)
    with pytest.raises(ValueError, match="one perturbation a sample: 2; got 1"):
        run(model23, video, None, Perturbations((Perturbation(),)))


@pytest.mark.slow
def test_a_network_that_is_compiled_gives_the_same(model23, streams):
    """As nodes that compile a MODEL do: Dynamo looks into objects of which it does not know the fields."""
    inputs = [make(model23.config) for make in streams]
    torch._dynamo.reset()
    assert_same(run(torch.compile(model23, backend="eager"), *inputs), run(model23, *inputs))
    torch._dynamo.reset()
