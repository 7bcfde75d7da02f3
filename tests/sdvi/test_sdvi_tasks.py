"""Spoken records have the published form and keep what they were made of."""

from __future__ import annotations

import re

import pytest

from omni_diffusion.corpus.record import Record
from omni_diffusion.sdvi.rules import Dropped, RulesRecipe, Spoken, speakable
from omni_diffusion.sdvi.tasks import Plan, Task, Uttered, build_record, drafts_of, plan
from omni_diffusion.sdvi.templates import (
    CAPTION_REQUESTS,
    IMAGE_REQUESTS,
    caption_request,
    image_request,
)
from omni_diffusion.tokenize.prompts import TASKS
from speaking import conversation, pictured

VALUES = {
    "duration_s": 2.0, "words_per_s": 2.5, "peak": 0.5, "rms_dbfs": -20.0, "silence_s": 0.1,
    "wer": 0.0, "cer": 0.0,
}  # fmt: skip


def made(record: Record, task: Task = "spoken_vqa", max_turns: int = 3) -> Plan | Dropped:
    drafts = drafts_of("key", record, task, max_turns)
    if isinstance(drafts, Dropped):
        return drafts
    return plan("key", record, task, drafts, RulesRecipe())


def spoken_record(record: Record, task: Task = "spoken_vqa") -> Record:
    planned = made(record, task)
    assert isinstance(planned, Plan), planned
    uttered = [
        Uttered(
            voice=f"v{i}", gender="male", accent="en-GB", rate=1.0, attempt=i, heard="x",
            values={**VALUES, "wer": i / 10},
        )
        for i in range(len(planned.lines))
    ]  # fmt: skip
    sounds = [f"audio{i}.flac" for i in range(len(planned.lines))]
    return build_record(planned, uttered, sounds, "engine-1", "ear-1")


def contents(record: Record) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in record.messages]


def test_a_spoken_question_has_the_published_form() -> None:
    record = spoken_record(conversation("What is it?\nA. a cat\nB. 2 dogs", "B"))
    assert contents(record) == [
        ("system", "Please response the input audio based on the given image."),
        ("user", "<|audio|>\n<|image|>"),
        ("assistant", "2 dogs\n<|audio|>"),
    ]
    assert (record.images, record.audios) == (("a.png",), ("audio0.flac", "audio1.flac"))
    assert (record.task, record.source, record.license) == ("svqa", "test", "MIT")
    assert record.provenance == {"origin": "row 7", "voice": "v0", "tts_engine": "engine-1"}
    assert record.quality["wer"] == 0.1, "the worst utterance counts"
    assert record.quality["duration_s"] == 4.0
    details = record.extra["sdvi"]
    assert details["recogniser"] == "ear-1"
    question, answer = details["utterances"]
    assert question["text_spoken"] == "What is it?"
    assert answer["text_raw"] == "B"
    assert answer["text_spoken"] == "Two dogs."
    assert answer["rules"][0] == "R5.choice"
    assert Record.from_json(record.to_json()) == record


def test_a_spoken_description_has_the_published_form() -> None:
    record = spoken_record(pictured("a red apple, 4k --ar 1:1"), "speech_to_image")
    assert contents(record) == [
        ("system", "Please generate an image based on the input audio."),
        ("user", "<|audio|>"),
        ("assistant", "<|image|>"),
    ]
    assert record.task == "s2i"
    (utterance,) = record.extra["sdvi"]["utterances"]
    assert utterance["text_spoken"].endswith("A red apple, four k.")
    assert utterance["text_raw"] == "a red apple, 4k --ar 1:1"


def test_a_spoken_caption_is_asked_for_aloud() -> None:
    record = spoken_record(conversation("Caption it.", "3 cats asleep", task="caption"),
                           "spoken_caption")  # fmt: skip
    assert contents(record)[1:] == [
        ("user", "<|audio|>\n<|image|>"),
        ("assistant", "3 cats asleep\n<|audio|>"),
    ]
    assert record.task == "spoken_caption"


def test_system_prompts_are_those_of_the_tokenizing_side() -> None:
    """The two packages may not know each other, but they must not drift apart."""
    question, description = conversation("What is it?", "A cat."), pictured("A cat is here")
    for published, record in (
        ("svqa", spoken_record(question)),
        ("s2i", spoken_record(description, "speech_to_image")),
    ):
        system, user = TASKS[published]
        assert contents(record)[:2] == [("system", system), ("user", user)]


def test_a_conversation_keeps_its_turns_up_to_the_first_bad_one() -> None:
    good = ("What is it?", "A cat.", "What colour is it?", "Black.")
    record = spoken_record(conversation(*good))
    assert [m.content for m in record.messages][1:] == [
        "<|audio|>\n<|image|>", "A cat.\n<|audio|>", "<|audio|>", "Black.\n<|audio|>",
    ]  # fmt: skip
    cut = spoken_record(conversation(*good, "Where?", "See www.example.org", "Who is it?", "Tom."))
    assert len(cut.audios) == 4
    assert cut.extra["sdvi"]["cut"]["rule"] == "R7.length"
    chosen = spoken_record(conversation(*good, "Which one is it?", "B"))
    assert chosen.extra["sdvi"]["cut"]["rule"] == "R5.choice"
    limited = made(conversation(*good), max_turns=1)
    assert isinstance(limited, Plan)
    assert len(limited.lines) == 2


@pytest.mark.parametrize(
    ("record", "rule"),
    [
        (conversation("What colour is it?", "B"), "R5.choice"),
        (conversation("", "A cat."), "R0.empty"),
        (conversation("What is it?", ""), "R0.empty"),
        (conversation("What is it?", "A cat.", "Solve for x.", "x = 3"), "R2.math"),
        (conversation("What is it?", "A cat.", "And?", "```python```"), "R1.code"),
        (conversation("What is it?", "word " * 101), "R7.length"),
        (conversation("What is it?"), "R0.form"),
        (conversation("What is it?", "A cat.", "Why?"), "R0.form"),
        (Record.from_dict({"messages": [{"role": "user", "content": "hi"}]}), "R0.form"),
        (pictured("\U0001f600"), "R0.form"),
    ],
)
def test_records_without_use_are_dropped_by_a_named_rule(record: Record, rule: str) -> None:
    for task in ("spoken_vqa", "speech_to_image", "spoken_caption"):
        result = made(record, task)  # type: ignore[arg-type]
        if task == "spoken_vqa" or rule == "R0.form":
            assert isinstance(result, Dropped)
            if record.task == "vqa":
                assert result.rule == rule


def test_one_description_in_five_has_no_instruction() -> None:
    requests = [image_request(f"key-{i}") for i in range(4_000)]
    assert 0.18 < requests.count("") / len(requests) < 0.22
    assert set(requests) == {"", *IMAGE_REQUESTS}
    assert {caption_request(f"key-{i}") for i in range(1_000)} == set(CAPTION_REQUESTS)


@pytest.mark.parametrize("text", [*IMAGE_REQUESTS, *CAPTION_REQUESTS])
def test_instructions_are_speakable_as_they_stand(text: str) -> None:
    result = speakable(text, "question")
    assert isinstance(result, Spoken)
    assert result.text_spoken == text
    assert not re.search(r"\d", text)
