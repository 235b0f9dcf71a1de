"""One table declares every option; it agrees with the library, and contradictions are named."""

from __future__ import annotations

import pytest

from ltx2_core.attention import CHOICES
from ltx2_core.cli.options import reference_markdown
from ltx2_core.conditioning.regions import Rounding
from ltx2_core.run.flat_options import FIELDS
from ltx2_core.run.options import (
    COMMANDS,
    CONFLICTS,
    GROUPS,
    OPTIONS,
    PRESET_NAMES,
    REQUIREMENTS,
    SAMPLER_NAMES,
    STAGE2_PRESETS,
    WITHOUT,
    by_name,
    check_together,
    options_of,
)
from ltx2_core.run.recipes import RECIPES, Recipe
from ltx2_core.run.request import Request
from ltx2_core.sampling.presets import PRESETS
from ltx2_core.sampling.samplers import SAMPLERS
from ltx2_core.shapes import Snap


def test_every_option_is_declared_once_and_has_a_group_and_help():
    names = [option.name for option in OPTIONS]
    assert len(names) == len(set(names))
    for option in OPTIONS:
        assert option.group in GROUPS, option.name
        assert option.help.endswith("."), option.name
        assert (option.kind == "choice") == bool(option.choices), option.name


def test_no_command_has_a_flag_twice():
    for command in COMMANDS:
        flags = [flag for option in options_of(command) for flag in option.flags]
        assert len(flags) == len(set(flags)), command


def test_choices_are_those_of_the_library():
    assert tuple(SAMPLERS) == SAMPLER_NAMES
    assert tuple(PRESETS) == PRESET_NAMES
    assert tuple(name for name in PRESETS if name.startswith("distilled 3")) == STAGE2_PRESETS
    assert by_name("attention").choices == CHOICES
    assert by_name("snap").choices == tuple(snap.value for snap in Snap)
    assert by_name("rounding").choices == tuple(one.value for one in Rounding)


def test_fields_of_a_request_have_the_default_of_the_table():
    empty = Request(prompt="x")
    for option in OPTIONS:
        if not option.request or option.name == "prompt":
            continue
        assert option.name in FIELDS, option.name
        value = getattr(empty, option.name)
        if option.name == "stages":
            assert value == option.edit_default
        elif option.name == "snap":
            assert value.value == option.default
        elif option.by_recipe:
            assert value is None
            assert option.name in Recipe.__dataclass_fields__
        elif not option.multiple:
            assert value == option.default, option.name


def test_defaults_in_the_help_are_those_of_the_recipes():
    assert by_name("steps").default_text() == "30; tiny set 20"
    assert by_name("stages").default_text("generate") == "2; tiny set 1"
    assert by_name("stages").default_text("retake") == "1"
    assert by_name("image_crf").default_text() == "33; LTX-2.5 18; tiny set 0"


def test_the_commands_share_sampling_guidance_model_and_execution():
    shared = [
        {o.name for o in options_of(c) if o.group in ("sampling", "guidance", "execution")}
        for c in ("generate", "extend", "retake")
    ]
    assert shared[0] == shared[1] == shared[2]


SHARED = ("sampling", "guidance", "model", "execution", "output", "text")


@pytest.mark.parametrize("command", ["extend", "retake", "sound", "long"])
def test_every_command_takes_the_options_of_generate_or_says_why_not(command):
    own, without = {option.name for option in options_of(command)}, WITHOUT.get(command, {})
    shared = {option.name for option in options_of("generate") if option.group in SHARED}
    if command == "long":
        shared |= {option.name for option in options_of("generate") if option.group in ("size", "inputs")}
    assert own | without.keys() >= shared
    assert not own & without.keys()
    assert all(reason for reason in without.values())
    assert without.keys() <= {option.name for option in OPTIONS}


def test_the_reference_says_which_options_a_command_lacks():
    text = reference_markdown()
    assert (
        "`--stage2-lora`, `--stage2-preset`, `--stage2-sampler`, `--stage2-sigmas`, `--upscaler`: audio is"
        in text
    )


@pytest.mark.parametrize(("one", "other", "reason"), CONFLICTS)
def test_two_options_that_contradict_each_other_are_both_named(one, other, reason):
    command = "extend" if one.startswith("extend") else "generate"
    with pytest.raises(ValueError, match=reason) as error:
        check_together({one: 1, other: 2}, command=command)
    assert by_name(one).flag in str(error.value)
    assert by_name(other).flag in str(error.value)


@pytest.mark.parametrize(("one", "needed"), REQUIREMENTS)
def test_an_option_without_the_one_that_it_needs_names_it(one, needed):
    with pytest.raises(ValueError, match="no effect") as error:
        check_together({one: 1}, command="generate")
    assert by_name(one).flag in str(error.value)
    assert by_name(needed).flag in str(error.value)
    check_together({one: 1, needed: "x"}, command="generate")
    check_together({one: 1}, {needed: "x"}, command="generate")


def test_a_file_of_distilled_weights_stays_distilled():
    with pytest.raises(ValueError, match="--distilled and --steps"):
        check_together({"steps": 4}, {"distilled": True}, command="generate")
    check_together({"steps": 4}, {"distilled": False}, command="generate")


def test_a_trigger_needs_its_place_in_a_prompt():
    with pytest.raises(ValueError, match=r"\[trigger\]"):
        check_together({"trigger": "sks", "prompt": "a ball"}, command="generate")
    check_together({"trigger": "sks", "prompt": "a [trigger] ball"}, command="generate")


def test_every_recipe_has_two_kinds_and_known_schedules():
    from ltx2_core.sampling.schedules import FIXED_SIGMAS

    for recipe in RECIPES:
        assert recipe.sampler in SAMPLERS
        assert recipe.stage2_sampler in SAMPLERS
        assert recipe.stage2_sigmas in FIXED_SIGMAS
        assert recipe.node_stage2_sigmas in FIXED_SIGMAS
        # Files of LTX-Video say themselves that they are distilled.
        distilled = recipe.kind == "distilled" or recipe.generation.endswith("-distilled")
        assert distilled == (recipe.sigmas in FIXED_SIGMAS)
    kinds = {(recipe.generation, recipe.kind) for recipe in RECIPES}
    assert len(kinds) == len(RECIPES) == 2 * len({generation for generation, _ in kinds})
