"""Checks of what a language model wrote: scripted answers with one fault each, and captions without any."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.text.enhance import RULES, WritingRules
from ltx2_core.text.enhance_checks import checked, fault_of
from ltx2_core.text.enhance_drift import likeness, vectors_of
from ltx2_core.text.instructions import INSTRUCTIONS

PROMPT = 'A red ball rolls past 2 cats in Paris, and a man says "good morning"'
CAPTION = (
    "A red ball rolls slowly down a narrow street in Paris, past two cats that sit on a doorstep and follow "
    'it with their eyes. A man in a grey coat looks up from his newspaper and says "good morning" while a '
    "bicycle bell rings in the distance and pigeons take off."
)
GOOD = {
    PROMPT: CAPTION,
    **dict.fromkeys(
        ("un chien court sur la plage", "Ein Hund läuft den Strand entlang", "一只狗在海滩上奔跑"),
        "A dog runs along a wide beach at low tide, its paws throwing up wet sand. The camera follows at its "
        "side while waves break and gulls call above the water.",
    ),
}
OTHER = (
    "A woman in a yellow raincoat walks along a pier at dusk, stops, turns to the camera and smiles while "
    "waves break against the wood and gulls call above her in the wind."
)
FAULTS = {
    "": "is empty",
    "123 ... !": "is empty",
    "A red ball rolls past two cats in Paris.": "words, and a caption at least",
    CAPTION + " The street is empty and still in the morning light." * 2
    + " ".join(f" Word{n} follows word{n + 1} here." for n in range(100)): "at most 350",
    CAPTION[:-1]: "ends within a sentence",
    f"Here is your prompt: {CAPTION}": "markup or an introduction",
    f"**Style:** {CAPTION}": "markup or an introduction",
    f"{CAPTION} {CAPTION}": "says everything twice",
    CAPTION + " The ball rolls and rolls away, the ball rolls and rolls away, the ball rolls and rolls away.":
        "repeats itself",
    PROMPT: "is the prompt itself",
    f"{INSTRUCTIONS[3, False][:400]} {CAPTION}": "repeats its instructions",
    CAPTION.replace("good morning", "good evening"): "lacks the speech",
    CAPTION.replace("two cats", "some cats"): "lacks the number 2",
    CAPTION.replace("in Paris", "in a town"): "lacks the name Paris",
    CAPTION + " Der Ball rollt mit den Katzen und die Sonne ist auf der Straße, und der Mann ist im Licht. "
    "Die Frau und das Kind mit der Katze.": "mixes two languages",
    "红色的球在巴黎的街道上慢慢滚动，两只猫坐在门口看着它。一个男人抬起头来说早上好，远处有铃声。": "script",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 a b c d e f 17 18 19 20 21 22 23 24 25.": "too few letters",
}  # fmt: skip


@pytest.mark.parametrize("prompt", GOOD)
def test_a_caption_has_no_fault(prompt):
    assert fault_of(GOOD[prompt], prompt) == ""


KITCHEN = (
    "A 3-year-old child in a blue coat rolls a red ball across the wooden floor of Anna's bright kitchen and "
    'says "don\'t go" while the kettle hums and sunlight falls through the window.'
)


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        ("a 3-year-old child rolls a red ball", ""),
        ("a child rolls a red ball in Anna's kitchen", ""),
        ("a child rolls a red ball in Anna\u2019s kitchen", ""),
        ('a child rolls a red ball and says "don\u2019t go"', ""),
        ("a child rolls a red ball and says \u201cdon\u2019t go\u201d", ""),
        ("a child rolls a red ball and says \u201cgood night\u201d", 'lacks the speech "good night"'),
        ("a 5-year-old child rolls a red ball", "lacks the number 5"),
        ("a child rolls a red ball in Clara's kitchen", "lacks the name Clara"),
    ],
)
def test_numbers_names_and_speech_are_found_in_compounds_and_typographic_quotes(prompt, fault):
    assert fault_of(KITCHEN, prompt) == fault


@pytest.mark.parametrize(("answer", "says"), FAULTS.items(), ids=range(len(FAULTS)))
def test_each_fault_is_found(answer, says):
    assert says in fault_of(answer, PROMPT)


def test_a_caption_of_something_else_is_found_by_words_and_by_embeddings():
    prompt = "a red ball rolls down the stairs"
    assert "is about something else" in fault_of(OTHER, prompt)

    def near(words):
        # All words of both texts have one meaning here.
        return torch.ones(len(words), 4)

    assert fault_of(OTHER, prompt, near) == ""
    assert likeness(prompt, OTHER, near) == pytest.approx(1)


def test_other_forms_of_a_word_are_that_word():
    assert likeness("a dog runs", "dogs were running quickly") == 1
    assert likeness("a dog runs", "a cat sleeps") == 0


class Scripted:
    """A language model that gives these answers in turn."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.rules = list(answers), list[WritingRules]()

    def __call__(self, text: str, rules: WritingRules) -> str:
        self.rules.append(rules)
        return self.answers[len(self.rules) - 1]


def test_a_faulty_answer_is_drawn_again_with_another_seed():
    write = Scripted("", CAPTION)
    found = checked(PROMPT, 3, write)
    assert (found.prompt, found.fault, found.tries) == (CAPTION, "", 2)
    assert [rules.attempt for rules in write.rules] == [0, 1]


def test_after_two_faults_the_words_of_the_user_are_used_with_the_reason(caplog):
    found = checked(PROMPT, 3, Scripted(f"{CAPTION} {CAPTION}", OTHER))
    assert found.prompt == PROMPT
    assert "lacks the speech" in found.fault
    assert f"the prompt stays as it is: what the language model wrote {found.fault}" in caplog.text


def test_an_image_that_is_not_seen_is_said_once_for_two_answers(caplog):
    assert checked(PROMPT, 3, Scripted("", OTHER), from_image=True).tries == 2
    assert caplog.text.count("does not see the image") == 1


def test_a_model_that_takes_the_most_probable_words_writes_once():
    write = Scripted(OTHER)
    assert checked(PROMPT, 4, write).prompt == PROMPT
    assert RULES[4].temperature is None
    assert len(write.rules) == 1


def test_words_have_the_embeddings_of_their_tokens(gemma_folder):
    from ltx2_core.text import load_gemma, load_tokenizer

    gemma, tokenizer = load_gemma(gemma_folder, dtype=torch.float32), load_tokenizer(gemma_folder)
    vectors = vectors_of(gemma, tokenizer)
    found = vectors(["red", "ball"])
    assert found.shape == (2, gemma.hidden_size)
    rows = gemma.model.embed_tokens(torch.tensor(tokenizer.encode(" red")))
    torch.testing.assert_close(found[0], rows.mean(dim=0))
