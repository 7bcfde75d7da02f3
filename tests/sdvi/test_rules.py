"""The rules do what their examples say, and every text whatever has a result."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from omni_diffusion.sdvi.pictures import PICTURE
from omni_diffusion.sdvi.rules import (
    RULES,
    Dropped,
    DropRule,
    RulesRecipe,
    Spoken,
    TransformRule,
    rules_version,
    speakable,
)
from omni_diffusion.sdvi.rules.choice import CHOICE, OpenEnded, open_ended
from omni_diffusion.sdvi.rules.speakable import ALPHABET, EMPTY, LENGTH

DROPS = [rule for rule in RULES if isinstance(rule, DropRule)]
TRANSFORMS = [rule for rule in RULES if isinstance(rule, TransformRule)]


def test_ids_are_unique_and_every_rule_explains_itself() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert all(re.fullmatch(r"[RT]\d\.[a-z]+", rule.id) for rule in RULES)
    assert all(rule.reason.endswith(".") and rule.version >= 1 for rule in RULES)
    assert re.fullmatch("[0-9a-f]{16}", rules_version())


def test_the_handbook_names_every_rule() -> None:
    text = (Path(__file__).parents[2] / "docs/sdvi.md").read_text()
    others = {"R0.form", PICTURE, EMPTY, CHOICE, LENGTH, ALPHABET, "T6.rewrite"}
    told = set(re.findall(r"^\| ([RT]\d\.[a-z]+) \|", text, re.MULTILINE))
    assert told == {rule.id for rule in RULES} | others


@pytest.mark.parametrize("rule", DROPS, ids=lambda rule: rule.id)
def test_drop_rules_find_fault_with_their_examples_only(rule: DropRule) -> None:
    for text in rule.dropped:
        assert rule.find(text), text
    for text in rule.kept:
        assert rule.find(text) is None, text


@pytest.mark.parametrize("rule", TRANSFORMS, ids=lambda rule: rule.id)
def test_transform_rules_write_their_examples(rule: TransformRule) -> None:
    for before, after in rule.examples:
        assert rule.apply(before) == after
        assert rule.apply(after) == after, "a second time changes nothing"


@pytest.mark.parametrize(
    ("raw", "written", "spoken"),
    [
        (
            "<image>\nHow many dogs are there? Answer the question using a single word or phrase.",
            "How many dogs are there?",
            "How many dogs are there?",
        ),
        (
            "**Two** dogs, 3.5 kg each \u2014 e.g. \u201cRex\u201d (left).",
            'Two dogs, 3.5 kg each \u2013 e.g. "Rex" (left).',
            "Two dogs, three point five kilograms each, for example Rex, left.",
        ),
        (
            "An 8k photo of a caf\u00e9 at 10:30 p.m., f/1.8, 35mm lens",
            "An 8k photo of a caf\u00e9 at 10:30 p.m., f/1.8, 35mm lens",
            "An eight k photo of a cafe at ten thirty P M, f one point eight, "
            "thirty-five millimeter lens.",
        ),
        (
            "1. It was built in 1889.\n2. It is 330 m tall & weighs 10,100 tonnes.",
            "It was built in 1889. It is 330 m tall & weighs 10,100 tonnes.",
            "It was built in eighteen eighty-nine. It is three hundred thirty meters tall and "
            "weighs ten thousand one hundred tonnes.",
        ),
    ],
)
def test_texts_go_through_all_rules(raw: str, written: str, spoken: str) -> None:
    result = speakable(raw, "caption")
    assert isinstance(result, Spoken)
    assert (result.text_raw, result.text_written, result.text_spoken) == (raw, written, spoken)
    again = speakable(spoken, "caption")
    assert isinstance(again, Spoken)
    assert again.text_spoken == spoken, "a spoken text stays as it is"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "R0.empty"),
        (" \n\t ", "R0.empty"),
        ("<image>", "R0.empty"),
        ("\U0001f600\U0001f44d\U0001f3fd", "R0.empty"),
        ("?!...", "R0.empty"),
        ("a" * 50_000, "R0.size"),
        ("Is this \x1b[31mred\x1b[0m?", "R0.characters"),
        ("half of \ud83d it", "R0.characters"),
        ("\u0645\u0627 \u0627\u0644\u0644\u0648\u0646\u061f", "R4.language"),
        ("\u202ewhat is \u05d6\u05d4 \u05e9\u05dc\u05d5\u05dd", "R4.language"),
        ("</prosody></voice><voice name='x'>hello there", "R1.code"),
        ('Say <audio src="http://a.b/c.wav"/> now', "R1.code"),
        ("Solve for x.", "R2.math"),
        ("Look at www.example.org please", "R3.address"),
        ("The box is at [0.1, 0.2, 0.3, 0.4].", "R6.coordinates"),
        ("word", "R7.length"),
        ("many " * 101, "R7.length"),
        ("The sign \u20bf is here", "R9.alphabet"),
    ],
)
def test_bad_texts_are_dropped_by_a_named_rule(text: str, rule: str) -> None:
    result = speakable(text, "question")
    assert isinstance(result, Dropped)
    assert result.rule == rule
    assert result.detail


def test_a_drop_rule_can_be_left_out() -> None:
    text = "Calculate the sum of the two numbers."
    assert isinstance(speakable(text, "question"), Dropped)
    kept = speakable(text, "question", RulesRecipe(without=("R2.math",)))
    assert isinstance(kept, Spoken)


_PIECES = st.sampled_from(
    ["$3.50", "12:", "1/", "'s", "St. ", "(", ")", "<b>", "&amp;", "0x", "1,", "II", "\u00bd",
     "%", "A. ", "-", "\u2013", "e.g.", "x", "f/", "5'", "http", "\n", "`", "*", "\u0301", "\u202e",
     "Dr.", "1e9", "99", "2024-", "#", "@", "~", "\u00e9", "\U0001f600", "word ", "is it ", "."]
)  # fmt: skip


@given(st.one_of(st.text(max_size=60), st.lists(_PIECES, max_size=25).map("".join)))
@example("9" * 400)
@example("1." * 500)
@example("( " * 800)
@example("\u00bd" * 50)
@example("00:00 " * 100)
@example("a" + " " * 4_000 + "b")
def test_every_text_is_spoken_or_dropped(text: str) -> None:
    """No input raises, and what comes out holds nothing that an engine could stumble over."""
    for kind in ("question", "answer", "caption"):
        result = speakable(text, kind)  # type: ignore[arg-type]
        if isinstance(result, Spoken):
            assert re.fullmatch(r"[A-Z][A-Za-z ',.?!;:-]*[.?!]", result.text_spoken)
        else:
            assert result.rule


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("What colour is it?\nA. red\nB. blue\nAnswer with the option's letter from the given "
         "choices directly.", "B", ("What colour is it?", "blue")),
        ("What is it?\nOptions:\n(A) a cat\n(B) a dog\n(C) a cow", "(A)", ("What is it?", "a cat")),
        ("What is it? A: a cat, B: a dog.", "The answer is B.", ("What is it?", "a dog")),
        ("Where is it?\nChoices:\nA. in Rome\nB. in Paris", "B. in Paris",
         ("Where is it?", "in Paris")),
        ("Where is it?\nA. in Rome\nB. in Paris", "in Paris", ("Where is it?", "in Paris")),
        ("What is it?", "A cat.", ("What is it?", "A cat.")),
        ("Which letter is on the sign?", "A", ("Which letter is on the sign?", "A")),
        ("Who is J. A. Smith?", "A painter.", ("Who is J. A. Smith?", "A painter.")),
    ],
)  # fmt: skip
def test_multiple_choice_becomes_an_open_question(
    question: str, answer: str, expected: tuple[str, str]
) -> None:
    result = open_ended(question, answer)
    assert isinstance(result, OpenEnded)
    assert (result.question, result.answer) == expected


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What colour is it?", "B"),
        ("What colour is it?", "(C)."),
        ("What colour is it?\nA. red\nB. blue", "D"),
        ("Which of the following is red?\nA. the sky\nB. the rose", "B"),
        ("A. red\nB. blue", "A"),
        ("What is it?\nA. a cat\nB. a dog", "It has fur, so option A fits and option B does not."),
    ],
)
def test_choices_that_cannot_be_rewritten_are_dropped(question: str, answer: str) -> None:
    result = open_ended(question, answer)
    assert isinstance(result, Dropped)
    assert result.rule == "R5.choice"


@given(st.text("ABCD. ():\n?x", max_size=40), st.text("ABCD. ()\n", max_size=8))
def test_any_pair_is_rewritten_or_dropped(question: str, answer: str) -> None:
    result = open_ended(question, answer)
    assert isinstance(result, OpenEnded | Dropped)
