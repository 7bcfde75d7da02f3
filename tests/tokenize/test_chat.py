"""Conversations stored as arrays become the same sequence as the text they were made from."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.errors import CodeRangeError, RecordError
from omni_diffusion.tokenize.chat import (
    IMAGE_CODES,
    PLACEHOLDER,
    ChatTemplate,
    Modality,
    content_pieces,
    tokenize_pieces,
)
from omni_diffusion.tokenize.prompts import TASKS, task_messages
from omni_diffusion.tokenize.text import TextTokenizer

TOKENIZER = TextTokenizer.from_pretrained("demo")
TEMPLATE = ChatTemplate(TOKENIZER)
NAMES = {"human": "user", "gpt": "assistant"}

contents = st.lists(
    st.one_of(
        st.text(max_size=20), st.sampled_from(["<|image|>", "<|audio|>", "\n", "<|im_end|>"])
    ),
    max_size=5,
).map("".join)
messages = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["system", "user", "assistant", "human", "gpt"]),
    contents,
)
conversations = st.lists(messages, min_size=1, max_size=4)


def stored(conversation, seed=0):
    """A conversation as a corpus holds it: span table and streams, media drawn from `seed`."""
    text = "".join(message["content"] for message in conversation)
    images, audios = text.count("<|image|>"), text.count("<|audio|>")
    pieces = content_pieces("key", conversation, images=images, audios=audios)
    draw = np.random.default_rng(seed)
    lengths = draw.integers(0, 7, audios).tolist()
    streams = {modality: np.zeros(0, dtype=np.uint16) for modality in Modality}
    for piece in pieces:
        if piece.modality != Modality.TEXT:
            size = IMAGE_CODES.get(piece.modality) or lengths[piece.media]
            codes = draw.integers(0, 8_192, size, dtype=np.uint16)
            streams[piece.modality] = np.concatenate([streams[piece.modality], codes])
    streams[Modality.TEXT], spans = tokenize_pieces(pieces, TOKENIZER, lengths)
    return spans, streams


def rendered(conversation, spans, streams):
    """The sequence as a string, written out from the template's definition."""
    rows = iter([row for row in spans.tolist() if row[2] != Modality.TEXT])

    def media(match):
        _, _, modality, start, length = next(rows)
        if modality == Modality.FEATURES:
            body = "<|context_of_audio|>" * (length + 4)
        else:
            codes = streams[modality][start : start + length]
            body = "".join(f"<|{match[1]}_{code}|>" for code in codes)
        return f"<|begin_of_{match[1]}|>{body}<|end_of_{match[1]}|>"

    turns = []
    for message in conversation:
        role = NAMES.get(message["role"], message["role"])
        kept = re.split(f"({PLACEHOLDER.pattern.replace('(', '(?:')})", message["content"])
        content = "".join(TOKENIZER.normalize(part) for part in kept)
        turns.append(f"<|im_start|>{role}\n{PLACEHOLDER.sub(media, content)}<|im_end|>\n")
    return turns


@given(conversations)
def test_the_stored_arrays_spell_the_conversation(conversation):
    spans, streams = stored(conversation)
    sequence = TEMPLATE.assemble("key", spans, streams)
    turns = rendered(conversation, spans, streams)
    assert sequence.ids.dtype == np.int32
    assert TOKENIZER.decode(sequence.ids) == "".join(turns)
    answers = [turn for turn in turns if turn.startswith("<|im_start|>assistant\n")]
    learned = "".join(turn.removeprefix("<|im_start|>assistant\n") for turn in answers)
    assert TOKENIZER.decode(sequence.ids[sequence.supervised]) == learned


@given(conversations)
def test_lengths_are_known_before_anything_is_assembled(conversation):
    spans, streams = stored(conversation)
    sequence = TEMPLATE.assemble("key", spans, streams)
    assert TEMPLATE.length(spans) == len(sequence.ids) == len(sequence.supervised)
    assert TEMPLATE.supervised_length(spans) == sequence.supervised.sum()


@given(conversations)
def test_audio_indices_are_the_places_that_wait_for_encoded_speech(conversation):
    spans, streams = stored(conversation)
    sequence = TEMPLATE.assemble("key", spans, streams)
    waiting = sequence.ids == TOKENIZER.vocabulary.control_id("<|context_of_audio|>")
    indices = np.concatenate([np.zeros(0, np.int32), *sequence.audio_indices])
    assert np.array_equal(indices, np.flatnonzero(waiting))
    frames = spans[spans[:, 2] == Modality.FEATURES, 4]
    assert [len(indices) for indices in sequence.audio_indices] == (frames + 4).tolist()


@given(st.lists(conversations, min_size=2, max_size=4), st.randoms())
def test_samples_that_share_streams_in_any_order_stay_what_they_are(batch, random):
    """A span table holds starts, so a sample may lie anywhere in a longer stream."""
    alone = [stored(conversation, seed) for seed, conversation in enumerate(batch)]
    order = list(range(len(batch)))
    random.shuffle(order)
    shared = {m: np.concatenate([alone[i][1][m] for i in order]) for m in Modality}
    begins = dict.fromkeys(Modality, 0)
    for i in order:
        spans, streams = alone[i]
        moved = spans.copy()
        moved[:, 3] += [begins[modality] for modality in spans[:, 2].tolist()]
        expected = TEMPLATE.assemble("key", spans, streams)
        found = TEMPLATE.assemble("key", moved, shared)
        assert np.array_equal(found.ids, expected.ids)
        assert np.array_equal(found.supervised, expected.supervised)
        begins = {m: begins[m] + len(streams[m]) for m in Modality}


@given(conversations)
def test_streams_hold_every_element_once_and_in_order(conversation):
    spans, streams = stored(conversation)
    for modality, stream in streams.items():
        rows = spans[spans[:, 2] == modality]
        assert rows[:, 3].tolist() == (np.cumsum(rows[:, 4]) - rows[:, 4]).tolist()
        assert rows[:, 4].sum() == len(stream)


@pytest.mark.parametrize(
    ("role", "picture", "sound"),
    [
        ("system", Modality.IMAGE_256, Modality.FEATURES),
        ("user", Modality.IMAGE_512, Modality.FEATURES),
        ("human", Modality.IMAGE_512, Modality.FEATURES),
        ("assistant", Modality.IMAGE_256, Modality.SPEECH),
        ("gpt", Modality.IMAGE_256, Modality.SPEECH),
    ],
)
def test_media_take_the_form_that_the_model_expects_of_the_role(role, picture, sound):
    conversation = [{"role": role, "content": "<|audio|> <|image|><|audio|>"}]
    pieces = content_pieces("key", conversation, images=1, audios=2)
    assert [(piece.modality, piece.media) for piece in pieces] == [
        (sound, 0),
        (Modality.TEXT, -1),
        (picture, 0),
        (sound, 1),
    ]


def test_a_message_without_content_keeps_its_turn():
    conversation = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    spans, streams = stored(conversation)
    assert spans.tolist() == [[0, 1, 0, 0, 0], [1, 2, 0, 0, 0]]
    text = TOKENIZER.decode(TEMPLATE.assemble("key", spans, streams).ids)
    assert text == "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"


@pytest.mark.parametrize("task", TASKS)
def test_a_prompt_ends_where_the_answer_begins(task):
    text = "What is shown in the picture?" if "{text}" in TASKS[task][1] else ""
    asked = task_messages(task, text)
    spans, streams = stored(asked)
    prompt = TEMPLATE.assemble(task, spans, streams, prompt=True)
    answered = [*asked, {"role": "assistant", "content": "A cat."}]
    full = TEMPLATE.assemble(task, *stored(answered))
    assert not prompt.supervised.any()
    assert prompt.ids.tolist() == full.ids[: len(prompt.ids)].tolist()
    assert full.supervised[len(prompt.ids) :].all()


@pytest.mark.parametrize(
    ("task", "text", "reason"),
    [("dance", "", "none of"), ("tts", "", "is empty"), ("asr", "hello", "not used")],
)
def test_a_task_that_cannot_be_asked_for_is_named(task, text, reason):
    with pytest.raises(RecordError, match=f"'{task}'.*{reason}"):
        task_messages(task, text)


@pytest.mark.parametrize(
    ("conversation", "field", "reason"),
    [
        ([], "messages", "is empty"),
        ([{"role": "user", "content": "<|image|>"}] * 2, "messages.1.content", "than the 1 images"),
        ([{"role": "user", "content": "hm"}], "images", "1 in the record, 0"),
        ([{"role": "user", "content": "<|image|><|audio|>"}], "messages.0.content", "the 0 audios"),
        ([{"role": "robot", "content": "<|image|>"}], "messages.0.role", "'robot' is none of"),
        ([{"content": "<|image|>"}], "messages.0.role", "None is none of"),
        ([{"role": "user", "content": None}], "messages.0.content", "is NoneType, not text"),
        ([{"role": "user", "content": "\ud800"}], "messages.0.content", "lone surrogate"),
    ],
)
def test_a_record_that_cannot_be_laid_out_is_named(conversation, field, reason):
    with pytest.raises(RecordError, match=reason) as error:
        content_pieces("n07", conversation, images=1, audios=0)
    assert (error.value.key, error.value.field) == ("n07", field)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "shape"),
        ([[1, 0, 0, 0, 1]], "message 1, role 0 cannot follow"),
        ([[0, 1, 0, 0, 1], [0, 2, 0, 1, 1]], "message 0, role 2 cannot follow 0, 1"),
        ([[0, 1, 0, 0, 1], [2, 1, 0, 1, 1]], "message 2"),
        ([[0, 3, 0, 0, 1]], "no role 3"),
        ([[0, 1, 5, 0, 1]], "no modality 5"),
        ([[0, 1, 0, -1, 1]], "negative start -1"),
        ([[0, 1, 0, 1, -1]], "length -1"),
        ([[0, 1, 0, 3, 2]], "ends at 5, the TEXT stream at 4"),
        ([[0, 1, 3, 0, 1]], "ends at 1, the SPEECH stream at 0"),
        ([[0, 1, 1, 0, 255]], "255 codes, not 256"),
        ([[0, 1, 2, 0, 256]], "256 codes, not 1024"),
    ],
)
def test_a_span_table_that_points_nowhere_is_refused(rows, reason):
    spans = np.array(rows, dtype=np.int32)
    with pytest.raises(RecordError, match=reason) as error:
        TEMPLATE.assemble("n07", spans, {Modality.TEXT: np.zeros(4, dtype=np.uint32)})
    assert error.value.key == "n07"


@pytest.mark.parametrize(
    ("modality", "length", "wrong"),
    [
        (Modality.TEXT, 3, TOKENIZER.vocabulary.size),
        (Modality.IMAGE_256, 256, 8_192),
        (Modality.IMAGE_512, 1_024, 65_535),
        (Modality.SPEECH, 3, 16_384),
    ],
)
def test_a_stored_code_outside_its_code_book_stops_the_sample(modality, length, wrong):
    stream = np.zeros(length, dtype=np.uint32)
    stream[1] = wrong
    with pytest.raises(CodeRangeError, match=f"'n07'.* {wrong} at position 1 "):
        TEMPLATE.assemble("n07", np.array([[0, 2, modality, 0, length]]), {modality: stream})
