"""Batches of records become speech or rejects: none lost, none twice, the same every time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.errors import RecordError
from omni_diffusion.sdvi.engines import Utterance
from omni_diffusion.sdvi.gates import GateRecipe
from omni_diffusion.sdvi.produce import Made, Producer, SynthesisRecipe
from omni_diffusion.sdvi.rewriter import Rewriter
from omni_diffusion.sdvi.speech_cache import SpeechCache
from speaking import Hummer, Listener, conversation, pictured

RECORDS = [
    ("a", conversation("What is it?", "A cat with 2 kittens.", "What colour is it?", "Black.")),
    ("b", conversation("What is it?", "A dog.")),
    ("c", conversation("What is it?", "B")),
    ("d", conversation("Is it red, green or blue today?", "It is as red as a rose.")),
]


def never(_: Utterance) -> int:
    return 0


def producer(
    recipe: SynthesisRecipe | None = None,
    hummer: Hummer | None = None,
    mishears: Callable[[Utterance], int] | None = None,
    cache: str | Path | None = None,
    rewriter: Rewriter | None = None,
) -> tuple[Producer, Hummer, SpeechCache]:
    hummer = hummer or Hummer()
    store = SpeechCache(cache)
    ear = Listener(hummer, mishears) if mishears else None
    recipe = recipe or SynthesisRecipe(task="spoken_vqa")
    return Producer(recipe, hummer, store, ear, rewriter), hummer, store


def kinds(results: list[Made | Reject]) -> list[str]:
    return ["made" if isinstance(r, Made) else f"{r.stage}: {r.reason}" for r in results]


def test_each_record_is_spoken_or_rejected_in_its_place() -> None:
    made = producer(mishears=never)[0].produce(RECORDS)
    assert [r.key for r in made] == ["a", "b", "c", "d"]
    assert kinds(made) == ["made", "made", "select: R5.choice", "made"]
    first = made[0]
    assert isinstance(first, Made)
    assert len(first.audios) == len(first.record.audios) == 4
    utterances = first.record.extra["sdvi"]["utterances"]
    users = {u["voice"] for u in utterances if u["role"] == "user"}
    assert len(users) == 1, "the user keeps one voice through the conversation"
    assert {u["voice"] for u in utterances if u["role"] == "assistant"} == {"v0"}
    assert "T2.number" in [rule for u in utterances for rule in u["rules"]]


@given(st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_a_part_of_the_records_has_answers_that_are_only_written(share: float) -> None:
    """The same questions are asked, and the same is answered, aloud or not."""
    records = [(f"key-{i}", RECORDS[i % 2][1]) for i in range(24)]
    aloud = producer()[0].produce(records)
    recipe = SynthesisRecipe(task="spoken_vqa", spoken_answers=share)
    mixed = producer(recipe)[0].produce(records)
    written = 0
    for both, made in zip(aloud, mixed, strict=True):
        assert isinstance(both, Made)
        assert isinstance(made, Made)
        made.record.validate(made.key)
        if made.record == both.record:
            assert made.audios == both.audios
            continue
        written += 1
        assert made.audios == both.audios[::2], "the user's voice alone"
        texts = [m.content.removesuffix("\n<|audio|>") for m in both.record.messages]
        assert [m.content for m in made.record.messages] == texts
        details, spoken = (record.extra["sdvi"] for record in (made.record, both.record))
        assert {u["role"] for u in details["utterances"]} == {"user"}
        answers = [u["text_raw"] for u in spoken["utterances"] if u["role"] == "assistant"]
        assert [text["text_raw"] for text in details["written"]] == answers
    if share in (0, 1):
        assert written == len(records) * (1 - share)
    least = SynthesisRecipe(task="spoken_vqa", spoken_answers=share / 2)
    fewer = producer(least)[0].produce(records)
    for made, other in zip(mixed, fewer, strict=True):
        assert isinstance(made, Made)
        assert isinstance(other, Made)
        assert len(other.audios) <= len(made.audios), "with a smaller share none becomes spoken"


def test_batches_do_not_matter() -> None:
    whole = producer()[0].produce(RECORDS)
    one, _, _ = producer()
    singles = [result for record in reversed(RECORDS) for result in one.produce([record])]
    plain = [(r.key, r.record) if isinstance(r, Made) else r for r in whole]
    assert plain == [(r.key, r.record) if isinstance(r, Made) else r for r in reversed(singles)]


def test_a_voice_that_is_misheard_gives_way_to_another() -> None:
    """All lines of the user change voice together; the assistant's are not touched."""
    (plain,) = producer(mishears=never)[0].produce(RECORDS[:1])
    assert isinstance(plain, Made)
    unclear = plain.record.provenance["voice"]
    (again,) = producer(mishears=lambda u: u.voice == unclear and "colour" in u.text)[0].produce(
        RECORDS[:1]
    )
    assert isinstance(again, Made)
    assert again.record.provenance["voice"] != unclear
    lines = again.record.extra["sdvi"]["utterances"]
    assert [u["attempt"] for u in lines] == [1, 0, 1, 0]
    assert lines[0]["voice"] == lines[2]["voice"]


def test_what_stays_unclear_is_rejected_with_all_that_was_measured() -> None:
    made = producer(mishears=lambda u: 9 * ("cat" in u.text))[0].produce(RECORDS)
    assert kinds(made) == ["gate: wer", "made", "select: R5.choice", "made"]
    reject = made[0]
    assert isinstance(reject, Reject)
    detail = json.loads(reject.detail)
    assert detail["role"] == "assistant"
    assert detail["text"] == "A cat with two kittens."
    assert "mumble" in detail["heard"]
    assert detail["values"]["wer"] > 1


def test_an_engine_that_fails_costs_the_record_only() -> None:
    hummer = Hummer(fails=lambda u: "dog" in u.text)
    made = producer(hummer=hummer)[0].produce(RECORDS)
    assert kinds(made) == ["made", "speak: busy", "select: R5.choice", "made"]


def test_a_second_run_and_another_threshold_speak_and_hear_nothing(tmp_path: Path) -> None:
    first, hummer, cache = producer(mishears=never, cache=tmp_path)
    made = first.produce(RECORDS)
    cache.commit()
    # The same hummer, so that the second listener would still understand.
    before = len(hummer.spoken)
    assert before == cache.synthesized > 0
    again, _, warm = producer(hummer=hummer, mishears=never, cache=tmp_path)
    assert again.produce(RECORDS) == made
    strict = SynthesisRecipe(task="spoken_vqa", gates=GateRecipe(duration_s=(0.3, 1.5), attempts=1))
    other, _, cold = producer(strict, hummer=hummer, mishears=never, cache=tmp_path)
    assert "gate: duration_s" in kinds(other.produce(RECORDS))
    assert (warm.synthesized, warm.transcribed) == (cold.synthesized, cold.transcribed) == (0, 0)
    assert len(hummer.spoken) == before


def test_the_same_words_in_the_same_voice_are_spoken_once() -> None:
    recipe = SynthesisRecipe(task="spoken_vqa")
    recipe = recipe.model_copy(
        update={"voices": recipe.voices.model_copy(update={"rate_spread": 0.0})}
    )
    maker, hummer, _ = producer(recipe)
    maker.produce([(f"k{i}", conversation("What is it?", "A dog.")) for i in range(60)])
    assert len(hummer.spoken) == len(set(hummer.spoken)) <= 8


def test_a_rewriter_changes_what_is_spoken_but_not_what_came() -> None:
    def rewrite(texts: object) -> list[str]:
        return ["" if "dog" in t else t.replace("cat", "tiger") for _, t in texts]  # type: ignore[attr-defined]

    made = producer(rewriter=rewrite)[0].produce(RECORDS)
    assert kinds(made)[:2] == ["made", "select: T6.rewrite"]
    assert isinstance(made[0], Made)
    answer = made[0].record.extra["sdvi"]["utterances"][1]
    assert answer["text_raw"] == "A cat with 2 kittens."
    assert answer["text_spoken"] == "A tiger with two kittens."
    assert answer["rules"][0] == "T6.rewrite"


BAD = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["", "x" * 50_000, "\U0001f600", "\x00\x07", "\u202e\u05d0\u05d1", "B", "</speak><break/>",
         "\ud83d", "${jndi:ldap://a}", "A. a\nB. b", "&lt;voice&gt;", "\u0661\u0662", "1/0", "e.g."]
    ),
)  # fmt: skip


@given(st.lists(BAD, min_size=1, max_size=4), st.sampled_from(["spoken_vqa", "speech_to_image"]))
def test_no_text_whatever_brings_the_batch_down(texts: list[str], task: str) -> None:
    """Each is spoken or a reject with a rule's id, and so is the good record beside it."""
    kind = "vqa" if task == "spoken_vqa" else "t2i"
    try:
        bad = conversation(*texts) if kind == "vqa" else pictured(texts[0])
    except RecordError:  # records refuse halves of characters before we see them
        return
    good = conversation("What is it?", "A dog is here.") if kind == "vqa" else pictured("A red dog")
    maker = producer(SynthesisRecipe(task=task))[0]  # type: ignore[arg-type]
    results = maker.produce([("bad", bad), ("good", good)])
    assert [r.key for r in results] == ["bad", "good"]
    for result in results:
        if isinstance(result, Reject):
            assert result.stage in ("select", "gate")
            assert result.reason
        else:
            assert Record.from_json(result.record.to_json()) == result.record
    assert isinstance(results[1], Made)


def test_an_empty_batch_is_an_empty_batch() -> None:
    assert producer()[0].produce([]) == []


def test_recipes_name_engines_by_kind() -> None:
    recipe = SynthesisRecipe.model_validate_json(
        '{"task": "speech_to_image", "engine": {"kind": "edge", "concurrency": 4}}'
    )
    assert recipe.engine.kind == "edge"
    with pytest.raises(ValueError, match="kind"):
        SynthesisRecipe.model_validate_json('{"task": "spoken_vqa", "engine": {"kind": "siri"}}')
