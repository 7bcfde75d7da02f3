"""One id range for text, control tokens, speech and images, all by arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.errors import CodeRangeError
from omni_diffusion.tokenize.vocabulary import (
    CONTROL_TOKENS,
    IMAGE_CODEBOOK_SIZE,
    PUBLISHED_TEXT_SIZE,
    SPECIAL_TOKENS,
    SPEECH_CODEBOOK_SIZE,
    TASK_TOKENS,
    TokenKind,
    Vocabulary,
)

PUBLISHED = Vocabulary(PUBLISHED_TEXT_SIZE)
vocabularies = st.builds(Vocabulary, st.integers(256, 200_000))


def test_the_published_checkpoint_finds_every_range_where_it_was_trained():
    assert PUBLISHED.end_of_text_id == 151_643
    assert PUBLISHED.mask_id == 151_666
    assert [PUBLISHED.control_id(token) for token in TASK_TOKENS] == list(range(151_667, 151_688))
    assert PUBLISHED.speech_ids([0, 16_383]).tolist() == [151_688, 168_071]
    assert PUBLISHED.image_ids([0, 8_191]).tolist() == [168_072, 176_263]
    assert PUBLISHED.size == 176_264


@given(vocabularies)
def test_the_ranges_tile_the_vocabulary_without_gap_or_overlap(vocabulary):
    kinds = vocabulary.modality_of(np.arange(vocabulary.size))
    expected = np.repeat(
        [TokenKind.TEXT, TokenKind.CONTROL, TokenKind.SPEECH, TokenKind.IMAGE],
        [vocabulary.text_size, 24 + 21, SPEECH_CODEBOOK_SIZE, IMAGE_CODEBOOK_SIZE],
    )
    assert np.array_equal(kinds, expected)


@given(vocabularies, st.lists(st.integers(0, 16_383)), st.lists(st.integers(0, 8_191)))
def test_native_codes_survive_the_unified_vocabulary(vocabulary, speech, image):
    speech, image = np.array(speech, dtype=np.uint16), np.array(image, dtype=np.uint16)
    speech_ids, image_ids = vocabulary.speech_ids(speech), vocabulary.image_ids(image)
    assert speech_ids.dtype == image_ids.dtype == np.int32
    for codes, back in (
        (speech, vocabulary.speech_codes(speech_ids)),
        (image, vocabulary.image_codes(image_ids)),
    ):
        assert back.dtype == np.uint16
        assert np.array_equal(back, codes)


def test_every_id_above_text_has_one_name_and_the_name_leads_back():
    ids = range(PUBLISHED.text_size, PUBLISHED.size)
    names = [PUBLISHED.name_of(token_id) for token_id in ids]
    assert len(set(names)) == len(names)
    assert [PUBLISHED.id_of(name) for name in names] == list(ids)


@pytest.mark.parametrize(
    "name",
    ["<|audio_16384|>", "<|image_8192|>", "<|image_007|>", "<|image_-1|>", "<|image_٣|>", "cat"],
)
def test_a_string_that_names_no_id_is_not_mistaken_for_one(name):
    assert PUBLISHED.id_of(name) is None


@pytest.mark.parametrize(
    ("convert", "wrong"),
    [
        (PUBLISHED.speech_ids, 16_384),
        (PUBLISHED.speech_ids, -1),
        (PUBLISHED.image_ids, 8_192),
        (PUBLISHED.image_ids, -1),
        (PUBLISHED.speech_codes, 168_072),
        (PUBLISHED.speech_codes, 151_687),
        (PUBLISHED.image_codes, 168_071),
        (PUBLISHED.image_codes, 176_264),
        (PUBLISHED.text_ids, 176_264),
        (PUBLISHED.modality_of, 176_264),
        (PUBLISHED.modality_of, -1),
    ],
)
def test_a_code_outside_its_range_is_named_never_clamped(convert, wrong):
    right = {"speech_codes": 151_688, "image_codes": 168_072}.get(convert.__name__, 0)
    convert([right, right])
    with pytest.raises(CodeRangeError, match=f"{wrong} at position 1 "):
        convert([right, wrong, wrong])


def test_codes_that_are_no_integers_are_refused():
    with pytest.raises(CodeRangeError, match="float64"):
        PUBLISHED.image_ids([1.0])
    with pytest.raises(CodeRangeError, match="not a control token"):
        PUBLISHED.control_id("<|begin_of_smell|>")
    with pytest.raises(CodeRangeError, match="256"):
        Vocabulary(255)


def test_a_fingerprint_changes_with_the_layout_and_with_the_tokenizer_only():
    assert PUBLISHED.fingerprint("a") == Vocabulary(PUBLISHED_TEXT_SIZE).fingerprint("a")
    others = {PUBLISHED.fingerprint("b"), Vocabulary(4_099).fingerprint("a")}
    assert PUBLISHED.fingerprint("a") not in others
    assert len(others) == 2


def test_the_control_tokens_are_distinct():
    assert len(SPECIAL_TOKENS) == 24
    assert len(TASK_TOKENS) == 21
    assert len(set(CONTROL_TOKENS)) == 45
