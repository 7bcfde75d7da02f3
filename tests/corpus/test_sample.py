"""What is read is what was written, and arrays cannot be taken for others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import make_sample, same, samples
from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.sample import (
    SPAN,
    Sample,
    build_sample,
    content_hash,
    decode_sample,
    encode_sample,
)
from omni_diffusion.errors import CorpusError, RecordError

RECORD = Record.from_dict({"messages": [{"role": "user", "content": "hi"}]})
NO_SPANS = np.empty(0, SPAN)


@given(samples())
def test_a_sample_survives_its_bytes(sample: Sample) -> None:
    data = encode_sample(sample)
    again = decode_sample(sample.key, data)
    assert same(again, sample)
    assert encode_sample(again) == data


@given(samples(), st.data())
def test_any_changed_or_missing_byte_is_an_error(sample: Sample, data: st.DataObject) -> None:
    payload = bytearray(encode_sample(sample))
    at = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(CorpusError):
        decode_sample(sample.key, bytes(payload[:at]))
    payload[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorpusError):
        decode_sample(sample.key, bytes(payload))


def test_arrays_are_aligned_views_and_not_copies() -> None:
    payload = encode_sample(make_sample("a"))
    for stream in decode_sample("a", payload).streams.values():
        assert stream.flags.aligned
        assert not stream.flags.owndata
        assert not stream.flags.writeable


def test_equal_tokens_have_equal_hashes_whatever_the_record_says() -> None:
    hashes = [content_hash(encode_sample(make_sample("a", 1, q))) for q in ("Why?", "How so?")]
    assert hashes[0] == hashes[1]
    assert hashes[0] != content_hash(encode_sample(make_sample("a", 2)))


@pytest.mark.parametrize(
    ("streams", "reason"),
    [
        ({"video": np.arange(3)}, "not a stream"),
        ({"speech": np.array([65_536])}, "outside 0..65535"),
        ({"text": np.array([-1])}, "holds -1"),
        ({"text": np.array([0.5])}, "not integers"),
        ({"text": np.zeros((2, 2), int)}, "not integers"),
        ({"features": np.array([[np.nan]])}, "not finite"),
        ({"features": np.array([[1e6]])}, "not finite in half precision"),
        ({"features": np.arange(3)}, "not floats"),
    ],
)
def test_ids_and_features_that_do_not_fit_are_refused(streams, reason) -> None:
    with pytest.raises(RecordError, match=reason):
        build_sample("k", RECORD, streams, NO_SPANS)


@pytest.mark.parametrize(
    ("span", "reason"),
    [
        ((0, 1, 0, 2, 2, 0), "ends at 4, stream text at 3"),
        ((0, 1, 0, 0, 4_294_967_295, 0), "ends at 4294967295"),
        ((0, 3, 0, 0, 1, 0), "role"),
        ((0, 1, 9, 0, 1, 0), "stream that does not exist"),
        ((1, 1, 0, 0, 1, 0), "after the last one"),
        ((0, 1, 0, 0, 1, 1), "not a picture"),
        ((0, 1, 1, 0, 4, 3), "does not divide"),
        ((0, 1, 1, 0, 4, 0), "does not divide"),
    ],
)
def test_spans_that_point_nowhere_are_refused(span, reason) -> None:
    streams = {"text": np.arange(3), "image256": np.arange(4)}
    with pytest.raises(RecordError, match=reason):
        build_sample("k", RECORD, streams, np.array([span], SPAN))
