"""Span tables of the chat layout survive a corpus, which also says how high pictures are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.corpus.sample import SPAN, STREAMS, decode_sample, encode_sample
from omni_diffusion.errors import RecordError
from omni_diffusion.tokenize.chat import (
    IMAGE_CODES,
    Modality,
    Role,
    content_pieces,
    span_table,
)
from omni_diffusion.tokenize.spans import discrete_speech, from_corpus, to_corpus
from training_corpora import ANSWERS, training_sample

pieces = st.tuples(st.sampled_from(Role), st.sampled_from(Modality), st.integers(1, 2000))


@given(st.lists(pieces, max_size=12))
def test_a_table_survives_the_corpus(rows) -> None:
    starts = dict.fromkeys(Modality, 0)
    table = np.zeros((len(rows), 5), np.int32)
    for i, (role, modality, length) in enumerate(rows):
        length = IMAGE_CODES.get(modality, length)
        table[i] = (i, role, modality, starts[modality], length)
        starts[modality] += length
    stored = to_corpus(table)
    assert stored.dtype == SPAN
    assert np.array_equal(from_corpus("k", stored), table)
    pictures = np.isin(table[:, 2], list(IMAGE_CODES))
    assert (stored["height"][pictures].astype(int) ** 2 == table[pictures, 4]).all()
    assert not stored["height"][~pictures].any()


def test_codes_of_modalities_are_those_of_streams() -> None:
    assert [m.name.lower().replace("image_", "image") for m in Modality] == [
        s.name for s in STREAMS
    ]


@given(st.sampled_from(sorted(ANSWERS)), st.integers(0, 99), st.booleans())
def test_a_sample_of_any_task_survives_its_bytes(task, seed, features) -> None:
    """Both ways to hear: continuous features, or the codes that the model also speaks."""
    sample = training_sample("k", task, np.random.default_rng(seed), features=features)
    again = decode_sample("k", encode_sample(sample))
    assert np.array_equal(to_corpus(from_corpus("k", again.spans)), sample.spans)
    assert features or "features" not in sample.streams


def test_discrete_speech_changes_what_the_user_says_and_nothing_else() -> None:
    messages = [
        {"role": "user", "content": "<|audio|> and <|image|>"},
        {"role": "assistant", "content": "<|audio|>"},
    ]
    before = content_pieces("k", messages, images=1, audios=2)
    after = span_table(discrete_speech(before), [5], [7, 9])
    changed = span_table(before, [5], [7, 9])[:, 2] != after[:, 2]
    assert changed.tolist() == [True, False, False, False]
    assert after[[0, 3], 2].tolist() == [Modality.SPEECH, Modality.SPEECH]
    assert after[3, 3] == 7  # the answer's codes follow the question's in one stream


@pytest.mark.parametrize(
    ("row", "column", "value", "reason"),
    [(0, "height", 8, "pictures must be square"), (1, "length", 0, "is a sound of no rows")],
)
def test_spans_whose_length_no_plan_could_know_are_refused(row, column, value, reason) -> None:
    table = np.array([[0, 1, Modality.IMAGE_256, 0, 256], [1, 2, 3, 0, 4]], np.int32)
    stored = to_corpus(table)
    stored[column][row] = value
    with pytest.raises(RecordError, match=reason):
        from_corpus("k", stored)
