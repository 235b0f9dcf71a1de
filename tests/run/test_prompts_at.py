"""Prompts by time in one clip, from the request to the latents."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from ltx2_core import LTX2Pipeline, Request
from ltx2_core.conditioning.inputs import ImageAt

SMALL = {"width": 64, "height": 64, "num_frames": 33, "fps": 8.0, "steps": 2, "stages": 1, "seed": 5}
"""5 latent frames, 4.1 s."""
CIRCLE, SQUARE = "a red circle bounces on a blue background", "a green square pulses on a white background"


@pytest.fixture(scope="module")
def pipeline() -> LTX2Pipeline:
    return LTX2Pipeline.embedded(device="cpu", keep_loaded=True)


@pytest.fixture(scope="module")
def plain(pipeline):
    return pipeline(CIRCLE, **SMALL).latents


def same(one, other) -> bool:
    return torch.equal(one.video, other.video) and torch.equal(one.audio, other.audio)


@pytest.mark.parametrize(
    ("prompt", "at"),
    [
        ("", f"0: {CIRCLE}"),
        ("a red circle", "0: bounces on a blue background; 2: bounces on a blue background"),
        ("a red circle", "bounces on a blue background | bounces on a blue background"),
        ("", f"0:00: {CIRCLE}\n50%: {CIRCLE}"),
    ],
)
def test_one_part_and_parts_of_equal_text_are_the_plain_run_bit_for_bit(pipeline, plain, prompt, at):
    assert same(pipeline(prompt, prompts_at=at, **SMALL).latents, plain)


def test_the_second_part_changes_most_where_it_holds(pipeline, plain):
    made = pipeline("", prompts_at=f"0: {CIRCLE}; 50%: {SQUARE}", **SMALL).latents
    change = (made.video - plain.video).abs().mean(dim=(0, 1, 3, 4))
    assert float(change[-2:].min()) > 1.5 * float(change[:2].max())
    sound = (made.audio - plain.audio).abs().mean(dim=(0, 1, 3))
    half = len(sound) // 2
    assert float(sound[half:].mean()) > 1.5 * float(sound[:half].mean())


def test_a_guide_does_not_move_the_second_part(pipeline):
    """With an appended keyframe, a sixth of all tokens, the second part changes the same frames."""
    guide = Image.new("RGB", (64, 64), "blue")
    options = {**SMALL, "images": [ImageAt(source=guide, frame=16)]}
    plain = pipeline(CIRCLE, **options).latents
    made = pipeline("", prompts_at=f"0: {CIRCLE}; 50%: {SQUARE}", **options).latents
    change = (made.video - plain.video).abs().mean(dim=(0, 1, 3, 4))
    assert float(change[-2:].min()) > 1.5 * float(change[:2].max())


RELAYS = ["relay", "relay_wdc"]


@pytest.mark.parametrize("method", RELAYS)
def test_one_part_in_one_text_is_the_plain_run_bit_for_bit(pipeline, plain, method):
    at = f"0: {CIRCLE}; 50%: {CIRCLE}"
    assert same(pipeline("", prompts_at=at, prompt_method=method, **SMALL).latents, plain)


@pytest.mark.parametrize("guided", [False, True], ids=["no guide", "a guide"])
def test_each_part_of_one_text_holds_in_its_time(pipeline, guided):
    """Either half is nearer to the clip of its own prompt, also beside an appended keyframe."""
    guide = [ImageAt(source=Image.new("RGB", (64, 64), "blue"), frame=16)] if guided else []
    options = {**SMALL, "images": guide}
    alone = [pipeline(text, **options).latents.video for text in (CIRCLE, SQUARE)]
    at = f"0: {CIRCLE}; 50%: {SQUARE}"
    made = pipeline("", prompts_at=at, prompt_method="relay", **options).latents.video
    first, second = [(made - video).abs().mean(dim=(0, 1, 3, 4)) for video in alone]
    assert float((first / second)[:2].max()) < 0.7
    assert float((second / first)[-2:].max()) < 0.7


@pytest.mark.parametrize("method", RELAYS)
def test_guidance_two_stages_and_encoded_prompts_take_one_text(pipeline, method):
    options = {**SMALL, "prompts_at": f"{CIRCLE} | {SQUARE}", "prompt_method": method}
    options |= {"negative_prompt": "dark", "stages": 2, "cfg": 3.0}
    assert pipeline("on paper", **options).latents.video.isfinite().all()


def words(prompts):
    """Token counts of a tokenizer that reads words, six of them at most, behind one token."""
    return [min(len(prompt.split()), 6) + 1 for prompt in prompts]


@pytest.mark.parametrize(
    ("prompt", "text", "spans"),
    [
        ("a ball", "a ball rolls far stops", ((0.0, 3, 5), (2.0, 5, 6))),
        (" ", "rolls far stops", ((0.0, 1, 3), (2.0, 3, 4))),
    ],
)
def test_one_text_names_the_tokens_of_each_part(prompt, text, spans):
    request = Request(prompt=prompt, prompts_at="0: rolls far; 2: stops", prompt_method="relay")
    found, relay = request.text.relayed(4.0, words)
    assert (found, relay.parts, relay.seconds) == (text, spans, None)


def test_a_part_behind_the_last_token_is_an_error():
    request = Request(prompt="a b c d", prompts_at="0: rolls far; 2: stops", prompt_method="relay")
    with pytest.raises(ValueError, match="from 2 s lies behind the 7 tokens"):
        request.text.relayed(4.0, words)


def test_the_tokens_of_a_part_are_keys_at_the_same_places(pipeline):
    """Only from its first token on does another second part change the features of Gemma, which is causal."""
    texts = [f"{CIRCLE} {SQUARE}", f"{CIRCLE} two dogs run"]
    start = pipeline.count_tokens([CIRCLE])[0]
    one, other = (pipeline.networks.encode([text]).video[0] for text in texts)
    torch.testing.assert_close(one[:start], other[:start], atol=1e-4, rtol=0)
    assert float((one[start] - other[start]).abs().max()) > 1


def test_guidance_two_stages_and_nag_take_prompts_by_time(pipeline):
    made = pipeline(
        "", prompts_at=f"{CIRCLE} | {SQUARE}", negative_prompt="dark", **{**SMALL, "stages": 2, "cfg": 3.0}
    )
    assert made.latents.video.isfinite().all()


def test_clips_of_several_seeds_equal_single_calls(pipeline):
    options = {**SMALL, "prompts_at": f"0: {CIRCLE}; 2: {SQUARE}"}
    made = list(pipeline.clips("", seeds=[5, 6], **options))
    assert same(made[0].latents, pipeline("", **options).latents)
    assert not same(made[0].latents, made[1].latents)


def test_settings_hold_the_parts_and_give_them_back():
    request = Request(prompt="a ball", prompts_at="0: rolls; 2: stops", prompt_fade=0.5)
    again = Request.from_settings(request.settings())
    assert (again.prompts_at, again.prompt_fade) == ("0: rolls; 2: stops", 0.5)
    assert again.text == request.text


def test_a_trigger_word_is_put_into_parts_too():
    request = Request(prompt="a ball", prompts_at="0: [trigger] rolls", trigger="sks")
    assert request.text.by_time(4.0) == ((0.0, "a ball sks rolls"),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts_at": "0: a; 9: b"}, "the prompt from 9 s begins after the clip, which ends at 4.125 s"),
        ({"prompts_at": "0: a; 0: b"}, "the prompts must follow each other"),
        ({"prompts_at": "0: a; x: b", "seed": 1}, None),
        ({"prompts_at": "0: a; 5m: b"}, "begins after|does not begin with a time|a; 5m"),
        ({"prompts_at": ""}, "there is no text"),
        ({"prompts_at": "a |"}, "window 2 has no prompt"),
        ({"prompts_at": "0: a", "prompt_fade": -1.0}, "prompt_fade=-1"),
        ({"prompt_fade": 1.0}, "prompt_fade=1.0 has no effect without prompts_at"),
        ({"prompt_method": "relay"}, "prompt_method='relay' has no effect without prompts_at"),
        ({"prompts_at": "0: a", "prompt_method": "mix"}, "prompt_method='mix' must be one of separate"),
        (
            {"prompts_at": "0: a", "prompt_method": "relay", "prompt_fade": 1.0},
            "prompt_fade has no effect with prompt_method relay",
        ),
        ({"prompts_at": "0: a", "pipeline_kind": "dfr"}, "prompts_at"),
        ({"prompts_at": "0: a; 2: b", "prompt_embeds": True}, "prompt_embeds=True must be"),
    ],
)
def test_what_cannot_be_met_is_an_error_before_anything_is_loaded(pipeline, options, message):
    own = {name: value for name, value in SMALL.items() if options.get("pipeline_kind") is None}
    if message is None:
        assert pipeline.check(Request(prompt="p", **{**own, **options}))
        return
    with pytest.raises((ValueError, TypeError), match=message):
        pipeline.check(Request(prompt="p", **{**own, **options}))


def test_embeddings_of_one_prompt_are_refused_with_prompts_by_time(pipeline):
    embeds = pipeline.encode_prompt("a ball")
    with pytest.raises(ValueError, match="hold the prompts by time None and not '0: rolls"):
        Request(prompt_embeds=embeds, prompts_at="0: rolls; 2: stops")
