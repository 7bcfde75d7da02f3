"""Rows become records as the recipe declares, or rejects that say why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.record import AUDIO, IMAGE
from omni_diffusion.errors import RecipeError, SourceError, StorageError
from omni_diffusion.pipelines.sources.cleanup import clean, place_media
from omni_diffusion.pipelines.sources.forms import FORMS, Task
from omni_diffusion.pipelines.sources.rows import Refusal
from omni_diffusion.tokenize.prompts import TASKS, task_messages
from source_checks import Outcome, read_all, recipe_of, source_of, texts, told, write_jsonl

EVERYTHING = {name: name for name in ("text", "question", "answer", "image", "audio")}


def outcomes(folder: Path, rows: list[Any], **settings: Any) -> list[Outcome]:
    write_jsonl(folder / "rows.jsonl", rows)
    defaults = {"kind": "jsonl", "path": f"{folder}/rows.jsonl", "media_root": str(folder)}
    return read_all(source_of(folder, **defaults | settings))


@pytest.fixture
def media(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(b"picture")
    (tmp_path / "q.wav").write_bytes(b"question")
    (tmp_path / "r.wav").write_bytes(b"reply")
    return tmp_path


ROW = {"text": "a red apple", "question": "What?", "answer": "An apple.", "image": "a.png"} | {
    "audio": "q.wav",
    "reply": "r.wav",
}


def test_every_task_has_a_form_and_a_wording() -> None:
    assert set(get_args(Task)) == set(FORMS) == set(TASKS)


def test_every_task_is_asked_as_published_and_answered_from_the_row(media: Path) -> None:
    tasks = [task for task in TASKS if task != "caption"]
    found = outcomes(media, [ROW], tasks=tasks, columns=EVERYTHING)
    answers = {
        "asr": "a red apple",
        "tts": AUDIO,
        "t2i": IMAGE,
        "vqa": "An apple.",
        "s2i": IMAGE,
        "sqa": "An apple.",
        "svqa": "An apple.",
        "text": "An apple.",
    }
    asked = {"tts": "a red apple", "t2i": "a red apple", "vqa": "What?", "text": "What?"}
    for task, outcome in zip(tasks, found, strict=True):
        wording = [f"{m['role']}: {m['content']}" for m in task_messages(task, asked.get(task, ""))]
        assert texts(outcome) == [*wording, f"assistant: {answers[task]}"]
        assert outcome.key == f"set-00000-000000-{task}"
        assert isinstance(outcome, MediaRecord)
        assert outcome.record.task == task
        assert set(outcome.images) <= {b"picture"}
        assert set(outcome.audios) <= {b"question"}


def test_a_spoken_answer_follows_its_text(media: Path) -> None:
    columns = EVERYTHING | {"answer_audio": "reply"}
    (svqa,) = outcomes(media, [ROW], tasks=["svqa"], columns=columns)
    assert texts(svqa)[-1] == "assistant: An apple.\n<|audio|>"
    assert isinstance(svqa, MediaRecord)
    assert svqa.audios == (b"question", b"reply")
    assert svqa.images == (b"picture",)


def test_instructions_for_captions_vary_but_only_with_the_key(media: Path) -> None:
    settings = {"tasks": ["caption"], "columns": EVERYTHING, "caption_prompts": ["One?", "Two?"]}
    found = outcomes(media, [ROW] * 20, **settings)
    asked = [texts(outcome)[0] for outcome in found]
    assert set(asked) == {"user: One?\n<|image|>", "user: Two?\n<|image|>"}
    again = outcomes(media, [ROW] * 20, **settings)
    assert asked == [texts(outcome)[0] for outcome in again]


def test_what_the_recipe_says_of_a_record_is_kept(media: Path) -> None:
    row = ROW | {"n": {"id": 7, "who": "s1", "mos": 3.5, "lang": "de"}, "nan": float("1")}
    columns = EVERYTHING | {"id": "n.id", "language": "n.lang"}
    columns |= {"provenance": {"speaker": "n.who"}, "quality": {"dnsmos": "n.mos"}}
    settings = {"tasks": ["asr"], "license": "CC0-1.0", "language": "en"}
    (first, second) = outcomes(media, [row, ROW], columns=columns, **settings)
    assert isinstance(first, MediaRecord)
    assert isinstance(second, MediaRecord)
    assert first.record.provenance == {"origin": "7", "speaker": "s1"}
    assert (first.record.language, first.record.license) == ("de", "CC0-1.0")
    assert first.record.quality == {"dnsmos": 3.5}
    assert second.record.provenance == {"origin": "rows.jsonl#2"}
    assert (second.record.language, second.record.source) == ("en", "set")


BROKEN = [
    (ROW | {"text": None}, "missing text"),
    ({k: v for k, v in ROW.items() if k != "text"}, "missing text"),
    (ROW | {"text": " \n"}, "empty text"),
    (ROW | {"text": 3}, "wrong type: text"),
    (ROW | {"text": ["a"]}, "wrong type: text"),
    (ROW | {"text": "see <|image|>"}, "placeholder mismatch"),
    (ROW | {"text": "half \ud800"}, "invalid messages"),
    (ROW | {"audio": None}, "missing audio"),
    (ROW | {"audio": []}, "missing audio"),
    (ROW | {"audio": ["q.wav", "r.wav"]}, "several of audio"),
    (ROW | {"audio": 5}, "wrong type: audio"),
    (ROW | {"audio": {"path": 5}}, "wrong type: audio"),
    (ROW | {"audio": {"bytes": None, "path": None}}, "missing audio"),
    (ROW | {"audio": {"bytes": None}}, "missing audio"),
    (ROW | {"audio": ""}, "missing audio"),
    (ROW | {"audio": "nowhere.wav"}, "missing media"),
    (ROW | {"audio": "empty.wav"}, "empty audio"),
    (ROW | {"audio": "../outside.wav"}, "media outside its root"),
    (ROW | {"audio": "x/../../outside.wav"}, "media outside its root"),
    (ROW | {"audio": "/etc/hostname"}, "media outside its root"),
    (ROW | {"audio": "https://example.org/a.wav"}, "media outside its root"),
    (ROW | {"audio": "."}, "media outside its root"),
    (ROW | {"audio": "nul\0.wav"}, "unusable media path"),
    (ROW | {"audio": "long" * 100}, "unusable media path"),
    (ROW | {"audio": "x/" * 3000 + "a"}, "unusable media path"),
    (ROW | {"audio": "half \ud800.wav"}, "unusable media path"),
    (ROW | {"lang": 5.5, "id": {}}, "wrong type: id"),
    (ROW | {"mos": "good"}, "wrong type: dnsmos"),
    (ROW | {"mos": True}, "wrong type: dnsmos"),
    (ROW | {"mos": 10**400}, "number too large: dnsmos"),
]


@pytest.mark.parametrize(("row", "reason"), BROKEN)
def test_a_broken_row_is_a_reject_with_its_key_and_place(
    media: Path, row: dict[str, Any], reason: str
) -> None:
    (media / "empty.wav").write_bytes(b"")
    columns = EVERYTHING | {"id": "id", "quality": {"dnsmos": "mos"}}
    found = outcomes(media, [ROW, row, ROW], tasks=["asr"], columns=columns)
    assert told(found) == ["item", reason, "item"]
    assert found[1].key == "set-00000-000001"
    assert "rows.jsonl#2" in found[1].detail  # type: ignore[union-attr]


@given(st.lists(st.sampled_from(range(len(BROKEN) + 1)), max_size=30))
def test_in_equals_out_plus_rejects(tmp_path_factory, chosen: list[int]) -> None:
    """Whatever is broken and wherever: each row gives one outcome for each task."""
    folder = tmp_path_factory.mktemp("law")
    (folder / "r.wav").write_bytes(b"reply")
    (folder / "q.wav").write_bytes(b"question")
    (folder / "empty.wav").write_bytes(b"")
    rows = [ROW if i == len(BROKEN) else BROKEN[i][0] for i in chosen]
    columns = EVERYTHING | {"id": "id", "quality": {"dnsmos": "mos"}}
    found = outcomes(folder, rows, tasks=["asr", "tts"], columns=columns)
    reasons = ["item" if i == len(BROKEN) else BROKEN[i][1] for i in chosen]
    assert told(found) == [reason for reason in reasons for _ in range(2)]


def test_a_store_that_refuses_stops_the_partition(media: Path) -> None:
    (media / "loop.wav").symlink_to(media / "loop.wav")
    with pytest.raises(StorageError, match="symbolic links"):
        outcomes(media, [ROW | {"audio": "loop.wav"}], tasks=["asr"], columns=EVERYTHING)


def test_paths_without_a_media_root_are_the_recipes_fault(media: Path) -> None:
    with pytest.raises(SourceError, match="no media_root"):
        outcomes(media, [ROW], tasks=["asr"], columns=EVERYTHING, media_root=None)
    with pytest.raises(SourceError, match="no such folder"):
        outcomes(media, [ROW], tasks=["asr"], columns=EVERYTHING, media_root=f"{media}/x")


def test_media_may_be_named_with_the_whole_root_in_front(media: Path) -> None:
    rows = [ROW | {"audio": f"{media}/q.wav"}, ROW | {"audio": "./x/../q.wav"}]
    assert told(outcomes(media, rows, tasks=["asr"], columns=EVERYTHING)) == ["item", "item"]


CONVERSATION = {
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "An apple."},
        {"from": "human", "value": "Red?"},
        {"from": "gpt", "value": "Yes."},
    ],
    "image": "a.png",
}


def conversations(folder: Path, *rows: dict[str, Any]) -> list[Outcome]:
    columns = {"conversations": "conversations", "image": "image"}
    settings = {"tasks": ["vqa"], "columns": columns, "markers": {"<image>": "image"}}
    return outcomes(folder, list(rows), **settings)


def test_a_conversation_keeps_all_its_turns(media: Path) -> None:
    found = conversations(media, CONVERSATION)
    assert texts(found[0]) == [
        "human: What is it?\n<|image|>",
        "gpt: An apple.",
        "human: Red?",
        "gpt: Yes.",
    ]


def test_a_conversation_may_have_no_picture_or_several(media: Path) -> None:
    turns = [{"role": "user", "content": "<image><image>Same?"}]
    several = {"conversations": turns, "image": ["a.png", "a.png"]}
    nothing = {"conversations": [{"role": "user", "content": "Hello"}], "image": None}
    two, none = conversations(media, several, nothing)
    assert texts(two) == ["user: Same?\n<|image|>\n<|image|>"]
    assert texts(none) == ["user: Hello"]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (None, "missing conversations"),
        ("Hello", "wrong type: conversations"),
        (["Hello"], "wrong type: conversations"),
        ([{"from": "human"}], "wrong type: conversations"),
        ([{"from": "human", "value": None}], "wrong type: conversations"),
        ([], "invalid messages"),
        ([{"from": "robot", "value": "<image>"}], "invalid messages"),
        ([{"from": "human", "value": "Hello"}], "placeholder mismatch"),
        ([{"from": "human", "value": "<image><image>"}], "placeholder mismatch"),
    ],
)
def test_a_broken_conversation_is_a_reject(media: Path, turns: object, reason: str) -> None:
    found = conversations(media, CONVERSATION, {"conversations": turns, "image": "a.png"})
    assert told(found) == ["item", reason]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<image>\nWhat?", "What?\n<|image|>"),
        ("What?\n<image>", "What?\n<|image|>"),
        ("<image>", "<|image|>"),
        ("<image> <sound>Hm?", "Hm?\n<|image|>\n<|audio|>"),
        ("<image>\nIs it like <image>?", "<|image|>\nIs it like <|image|>?"),
        (" two\n\nlines ", " two\n\nlines "),
        ("<images> of", "<images> of"),
    ],
)
def test_markers_go_behind_the_text_unless_their_place_says_something(
    text: str, expected: str
) -> None:
    assert place_media(text, {"<image>": "image", "<sound>": "audio"}) == expected


@given(st.lists(st.sampled_from(["<image>", "text", " ", "\n", "<", "<|image|>"]), max_size=8))
def test_no_marker_is_lost(pieces: list[str]) -> None:
    text = "".join(pieces)
    placed = place_media(text, {"<image>": "image"})
    assert placed.count(IMAGE) == text.count(IMAGE) + text.count("<image>")
    assert place_media(text, {}) == text


def test_gigaspeechs_tags_become_punctuation() -> None:
    text = "AS THEY'RE LEAVING <COMMA> I SAID HI <QUESTIONMARK> OH <EXCLAMATIONPOINT>"
    assert clean(text, ["punctuation_tags"]) == "AS THEY'RE LEAVING, I SAID HI? OH!"
    both = clean(text, ["punctuation_tags", "sentence_case"])
    assert both == "As they're leaving, I said hi? Oh!"
    assert clean(text, ["lowercase"]) == text.lower()
    assert clean(text, []) == text


@pytest.mark.parametrize("tag", ["<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"])
def test_a_segment_without_speech_is_refused(tag: str) -> None:
    with pytest.raises(Refusal, match="no speech"):
        clean(tag, ["punctuation_tags"])


def test_cleaning_applies_to_texts_of_columns(media: Path) -> None:
    rows = [ROW | {"text": "HELLO <PERIOD>"}, ROW | {"text": "<MUSIC>"}]
    steps = ["punctuation_tags", "sentence_case"]
    first, second = outcomes(media, rows, tasks=["asr"], columns=EVERYTHING, clean=steps)
    assert texts(first)[-1] == "assistant: Hello."
    assert told([second]) == ["no speech"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ["asr"], "columns": {"text": "t"}}, r"task asr needs columns\.audio"),
        ({"tasks": ["svqa"], "columns": {}}, r"columns\.answer, columns\.audio, columns\.image"),
        ({"tasks": ["asr", "asr"], "columns": EVERYTHING}, "a task stands twice"),
        ({"tasks": [], "columns": EVERYTHING}, "at least 1"),
        ({"tasks": ["song"], "columns": EVERYTHING}, "tasks"),
        ({"tasks": ["asr"], "columns": {"txt": "t"}}, "did you mean 'text'"),
        ({"tasks": ["asr", "tts"], "columns": {"conversations": "c"}}, "of one task"),
        ({"tasks": ["asr"], "columns": EVERYTHING, "source": "a b"}, "source"),
        ({"tasks": ["asr"], "columns": EVERYTHING, "limit": 0}, "limit"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_when_it_is_read(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_of(tmp_path, kind="jsonl", path="x.jsonl", **settings)
