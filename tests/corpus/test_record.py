"""A record that a job accepts means one thing; one that it refuses is named exactly."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import records
from omni_diffusion.corpus.record import Record, check_key
from omni_diffusion.errors import RecordError

GOOD = {
    "messages": [
        {"role": "user", "content": "<|image|>\nWhat is it?"},
        {"role": "assistant", "content": "A cat."},
    ],
    "images": ["cat.png"],
}


@given(records())
def test_a_record_survives_json(record: Record) -> None:
    assert Record.from_json(record.to_json()) == record
    assert Record.from_json(record.to_json()).to_json() == record.to_json()


def test_published_data_works_unchanged_and_loses_nothing() -> None:
    published = {**GOOD, "id": 7, "meta": {"w": 640}, "audios": []}
    record = Record.from_dict(published)
    assert record.extra == {"id": 7, "meta": {"w": 640}}
    assert Record.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"messages": []}, "messages", "empty"),
        ({"messages": "hello"}, "messages", "not a list"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing"),
        ({"messages": [{"role": "bot", "content": ""}]}, "messages.0.role", "'bot'"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "not text"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content", "surrogate"),
        (
            {"messages": [{"role": "user", "content": "", "name": ""}]},
            "messages.0.name",
            "not a field",
        ),
        ({"images": []}, "images", "holds 0, but the messages have 1"),
        ({"images": ["a", "b"]}, "images", "holds 2"),
        ({"images": [None]}, "images.0", "null"),
        ({"images": [""]}, "images.0", "empty"),
        ({"audios": ["a.wav"]}, "audios", "holds 1, but the messages have 0"),
        ({"task": "Text to Image"}, "task", "lower-case"),
        ({"source": 5}, "source", "not text"),
        ({"provenance": {"voice": 5}}, "provenance.voice", "not text"),
        ({"quality": {"wer": float("nan")}}, "quality.wer", "finite"),
        ({"quality": {"wer": True}}, "quality.wer", "truth"),
        ({"provenance": ["x"]}, "provenance", "not an object"),
        ({"id": 1, "extra": {"id": 2}}, "id", "beside and inside"),
    ],
)
def test_a_bad_record_is_named_with_field_and_reason(change, field, reason) -> None:
    with pytest.raises(RecordError, match=reason) as caught:
        Record.from_dict({**GOOD, **change}, "k1")
    assert (caught.value.key, caught.value.field) == ("k1", field)


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b'{"messages": NaN}', b"[" * 100_000])
def test_what_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(RecordError, match="k1"):
        Record.from_json(text, "k1")


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_any_json_gives_a_record_or_a_record_error(value: object) -> None:
    for candidate in (value, {"messages": value}, {**GOOD, "images": value}):
        try:
            record = Record.from_json(json.dumps(candidate))
        except RecordError:
            continue
        record.validate("k")


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "..", "ä", "a b", "x" * 91, "a\n"])
def test_keys_that_would_not_survive_a_tar_are_refused(key: str) -> None:
    with pytest.raises(RecordError):
        check_key(key)
