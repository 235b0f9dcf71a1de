"""Prompts from named parts, in the library and by ``ltx2 prompt``."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ltx2_core.cli.main import main
from ltx2_core.run.prompt_parts import (
    build_prompt,
    fields,
    named_seconds,
    named_size,
    named_strength,
    shot,
    shot_of,
    sound_last,
    tables,
    with_sound,
)
from ltx2_core.shapes import SPATIAL_SCALE

WHOLE = {
    "scene": {"setting": "in a small kitchen", "atmosphere": "calm", "lighting": "morning light"},
    "visual": {"subject": "an old man", "action": "pours tea", "camera": "dolly in", "style": "film grain"},
    "audio": {
        "dialogue": 'he says "at last"',
        "ambient": "distant traffic",
        "music": "gentle piano",
        "effects": "a cup clicks",
    },
}


def test_parts_come_in_the_order_audio_visual_scene():
    given = {name: text for group in WHOLE.values() for name, text in group.items()}
    assert build_prompt(given) == (
        'he says "at last", distant traffic, gentle piano, a cup clicks, an old man, pours tea, dolly in, '
        "film grain, in a small kitchen, calm, morning light"
    )


def test_parts_may_be_given_by_audio_visual_and_scene():
    given = {name: text for group in WHOLE.values() for name, text in group.items()}
    assert build_prompt(WHOLE) == build_prompt(given)
    assert build_prompt({"visual": {"subject": "a fox"}, "lighting": "dusk"}) == "a fox, dusk"
    with pytest.raises(ValueError, match="no part 'melody'"):
        build_prompt({"audio": {"melody": "slow"}})


def test_one_sound_may_be_a_text():
    assert with_sound("a street", ambient="rain", effects="a whoosh") == "a street, rain, a whoosh"


def test_empty_parts_are_left_out():
    assert build_prompt({"subject": " a fox ", "music": "", "lighting": "dusk"}) == "a fox, dusk"


@pytest.mark.parametrize(
    ("parts", "says"), [({"subjet": "a"}, "did you mean subject"), ({"music": " "}, "empty")]
)
def test_wrong_parts_are_refused(parts, says):
    with pytest.raises(ValueError, match=says):
        build_prompt(parts)


def test_sound_is_added_behind_the_video():
    assert with_sound("a street") == "a street"
    assert with_sound(
        "a street", dialogue="a child laughs", ambient=["rain"], music="upbeat", effects=["a whoosh"]
    ) == ("a street, a child laughs, rain, upbeat music, a whoosh")


def test_a_shot_is_written_in_sentences():
    assert shot("low angle, dolly in shot", "", "a red car drives.", "cinematic lighting") == (
        "Low angle, dolly in shot. A red car drives. Cinematic lighting."
    )


def test_named_sizes_lie_on_the_grid():
    for size in tables()["sizes"].values():
        assert all(int(side) % SPATIAL_SCALE == 0 for side in size.split("x"))


def test_sizes_lengths_and_strengths_have_names():
    assert named_size("1080p") == (1920, 1088)
    assert [named_seconds(name) for name in ("quick", "long", "6 s", "7.5")] == [6, 20, 6, 7.5]
    assert [named_strength(name) for name in ("subtle", "balanced", "strong")] == [0.4, 0.7, 1.05]


@pytest.mark.parametrize(
    ("named", "text", "says"),
    [
        (named_size, "8k", "use 720p, 1080p, 4k"),
        (named_seconds, "short", "use quick, standard, complex, long, or such as 6 s"),
        (named_strength, "artefacts", "use subtle, balanced, strong"),
        (shot_of, {}, "empty"),
    ],
)
def test_unknown_names_are_refused(named, text, says):
    with pytest.raises(ValueError, match=says):
        named(text)


def test_the_command_adds_sound_to_a_text_and_writes_a_file(tmp_path):
    file = tmp_path / "prompt.txt"
    words = ["--text", "a street", "--music", "gentle", "--effects", "a whoosh", "-o", str(file)]
    made = CliRunner().invoke(main, ["prompt", *words])
    assert made.output == file.read_text() == "a street, gentle music, a whoosh\n"


def test_the_command_says_a_text_as_the_form_of_video_then_audio_does():
    heard = {"dialogue": "he hums", "ambient": "rain", "music": "slow", "effects": "a whoosh"}
    words = [word for name, text in heard.items() for word in (f"--{name}", text)]
    made = CliRunner().invoke(main, ["prompt", "--text", "a street", *words])
    assert made.output == f"{sound_last({'subject': 'a street', **heard})}\n"


def test_the_command_enhances_the_prompt(monkeypatch, tmp_path):
    from ltx2_core.run import enhancer
    from ltx2_core.text.enhance_checks import Enhancement

    asked = []

    def enhance(path, prompt, **options):
        asked.append((path.name, prompt, options))
        return Enhancement(prompt="A red ball rolls.")

    monkeypatch.setattr(enhancer, "enhance_alone", enhance)
    words = ["--subject", "a ball", "--enhance", "--enhancer", "gemma", "--seed", "7", "--from-image"]
    assert CliRunner().invoke(main, ["prompt", *words]).output == "A red ball rolls.\n"
    assert asked == [("gemma", "a ball", {"from_image": True, "seed": 7})]


def test_the_command_prints_the_prompt_and_the_words():
    run = CliRunner().invoke
    assert run(main, ["prompt", "--subject", "a fox", "--camera", "zoom in"]).output == "a fox, zoom in\n"
    sentences = run(
        main, ["prompt", "--sentences", "--subject", "a fox", "--action", "runs", "--camera", "zoom in"]
    )
    assert sentences.output == "Zoom in. A fox runs.\n"
    words = run(main, ["prompt", "--words"]).output
    assert all(title in words for title in tables() if title != "fields")
    assert run(main, ["prompt"]).exit_code == 2


def test_each_field_has_an_option_with_its_help():
    text = " ".join(CliRunner().invoke(main, ["prompt", "--help"]).output.split())
    assert all(f"--{name}" in text for name in fields())
