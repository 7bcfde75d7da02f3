"""The published chat layout, id layout and tokenization, against recorded vectors (all exact)."""

import json

import numpy as np
import pytest

from omni_diffusion.tokenize.chat import (
    ChatTemplate,
    Modality,
    content_pieces,
    span_table,
    tokenize_pieces,
)
from omni_diffusion.tokenize.prompts import TASKS, task_messages
from omni_diffusion.tokenize.text import TextTokenizer
from omni_diffusion.tokenize.vocabulary import CONTROL_PATTERN
from vectors import vector_set

FOLDER = vector_set("chat_sequence")
LAYOUT = json.loads((FOLDER / "id_layout.json").read_text("utf-8"))
SEQUENCES = json.loads((FOLDER / "sequences.json").read_text("utf-8"))["sequences"]
PROMPTS = json.loads((FOLDER / "inference_prompts.json").read_text("utf-8"))
TEXTS = json.loads((FOLDER / "tokenizer_checks.json").read_text("utf-8"))
TOKENIZER = TextTokenizer.from_file(FOLDER / "tokenizer.json")
TEMPLATE = ChatTemplate(TOKENIZER)


def pieces_of(entry):
    """The pieces of a recorded sample, with the system message that its run added, if any."""
    sample, default = entry["sample"], entry["default_system_message"]
    messages = sample["messages"]
    if default and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": default}, *messages]
    images, audios = len(sample.get("images", ())), len(sample.get("audios", ()))
    return content_pieces(entry["task"], messages, images=images, audios=audios)


def media_streams(entry, pieces):
    """The entry's codes as a corpus stores them, and the length of each of its audios."""
    sample = entry["sample"]
    streams = {modality: [] for modality in Modality}
    lengths = [0] * len(sample.get("audios", ()))
    tables = {Modality.IMAGE_256: "image_codes_256", Modality.IMAGE_512: "image_codes_512"}
    for piece in pieces:
        if piece.modality in tables:
            codes = entry[tables[piece.modality]][sample["images"][piece.media]]
            streams[piece.modality] += codes
        elif piece.modality == Modality.SPEECH:
            codes = entry["audio_codes"][sample["audios"][piece.media]]
            streams[piece.modality] += codes
            lengths[piece.media] = len(codes)
        elif piece.modality == Modality.FEATURES:
            lengths[piece.media] = entry["audio_num_frames"][sample["audios"][piece.media]]
    return {m: np.array(codes, dtype=np.uint16) for m, codes in streams.items()}, lengths


@pytest.mark.parametrize("entry", SEQUENCES, ids=lambda entry: entry["task"])
def test_a_stored_conversation_becomes_the_published_sequence(entry):
    pieces = pieces_of(entry)
    streams, audio_lengths = media_streams(entry, pieces)
    # The published code lets text open control tokens, and some of the samples try that.
    texts = [TOKENIZER.encode_control(p.text) for p in pieces if p.modality == Modality.TEXT]
    streams[Modality.TEXT] = np.concatenate([np.zeros(0, dtype=np.uint32), *texts])
    spans = span_table(pieces, [len(text) for text in texts], audio_lengths)

    sequence = TEMPLATE.assemble(entry["task"], spans, streams)

    assert sequence.ids.tolist() == entry["input_ids_before_tail"]
    labels = np.where(sequence.supervised, sequence.ids, -100)
    assert labels.tolist() == entry["labels_before_tail"]
    assert [indices.tolist() for indices in sequence.audio_indices] == entry["audio_indices"]
    assert TEMPLATE.length(spans) == len(sequence.ids)
    assert TEMPLATE.supervised_length(spans) == sequence.supervised.sum()


@pytest.mark.parametrize("entry", SEQUENCES, ids=lambda entry: entry["task"])
def test_stored_text_is_the_published_ids_less_any_control_token_typed_in_it(entry):
    pieces = pieces_of(entry)
    _, audio_lengths = media_streams(entry, pieces)
    stored, _ = tokenize_pieces(pieces, TOKENIZER, audio_lengths)
    assert stored.max(initial=0) < TOKENIZER.vocabulary.text_size
    if not any(CONTROL_PATTERN.search(piece.text) for piece in pieces):
        published = [TOKENIZER.encode_control(piece.text) for piece in pieces]
        assert stored.tolist() == np.concatenate(published).tolist()


@pytest.mark.parametrize("task", PROMPTS)
def test_a_prompt_has_the_ids_of_the_published_inference_script(task):
    """The recorded prompts still hold `<|audio|>` and `<|image|>`, which media replace later."""
    messages, vocabulary = PROMPTS[task]["messages"], TOKENIZER.vocabulary
    contents = "".join(message["content"] for message in messages)
    count = {name: contents.count(f"<|{name}|>") for name in ("image", "audio")}
    pieces = content_pieces(task, messages, images=count["image"], audios=count["audio"])
    text, spans = tokenize_pieces(pieces, TOKENIZER, audio_lengths=[5] * count["audio"])
    streams = {m: np.zeros(9999, dtype=np.uint16) for m in Modality} | {Modality.TEXT: text}
    ids = TEMPLATE.assemble(task, spans, streams, prompt=True).ids.tolist()
    for name in count:
        begin, end, placeholder = (
            vocabulary.control_id(token)
            for token in (f"<|begin_of_{name}|>", f"<|end_of_{name}|>", f"<|{name}|>")
        )
        while begin in ids:
            ids[ids.index(begin) : ids.index(end) + 1] = [placeholder]
    assert ids == PROMPTS[task]["ids"]
    assert TOKENIZER.decode(ids) == PROMPTS[task]["text"]


@pytest.mark.parametrize("task", sorted({task.lower() for task in PROMPTS} & set(TASKS)))
def test_tasks_are_asked_for_in_the_published_words(task):
    published = next(PROMPTS[name]["messages"] for name in PROMPTS if name.lower() == task)
    before, _, after = TASKS[task][1].partition("{text}")
    text = published[-1]["content"].removeprefix(before).removesuffix(after)
    text = text if "{text}" in TASKS[task][1] else ""
    assert task_messages(task, text, published_inference=True) == published


@pytest.mark.parametrize("check", TEXTS, ids=lambda check: repr(check["text"]))
def test_text_is_tokenized_as_with_all_control_and_code_strings_added(check):
    ids = TOKENIZER.encode_control(check["text"])
    assert ids.tolist() == check["ids"]
    assert TOKENIZER.decode(ids) == check["text"]
    if not CONTROL_PATTERN.search(check["text"]):
        assert TOKENIZER.encode(check["text"]).tolist() == check["ids"]


def test_every_id_lies_where_the_published_layout_puts_it():
    vocabulary = TOKENIZER.vocabulary
    assert TOKENIZER.base_size == LAYOUT["stand_in_base_vocab"]
    for name, token_id in LAYOUT["special_token_ids"].items():
        assert vocabulary.control_id(name) == vocabulary.id_of(name) == token_id
    assert vocabulary.speech_start == LAYOUT["audio_first"]
    assert vocabulary.image_start - 1 == LAYOUT["audio_last"]
    assert vocabulary.image_start == LAYOUT["image_first"]
    assert vocabulary.size - 1 == LAYOUT["image_last"]
    assert vocabulary.size == LAYOUT["total_vocab"] == LAYOUT["config_vocab_size"]
    assert vocabulary.end_of_text_id == LAYOUT["generation_constants"]["eos_pad"]
    assert vocabulary.mask_id == LAYOUT["generation_constants"]["mask"]
