"""`docs/format.md` is enough to write a reader from: its own reader is run against real shards."""

import re
import tarfile
from pathlib import Path

import numpy as np
from hypothesis import given

from corpora import make_corpus, samples
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.sample import BY_NAME, Sample, encode_sample
from omni_diffusion.corpus.sidecar import SCHEMA, tar_name

DOCUMENT = (Path(__file__).parents[2] / "docs/format.md").read_text()


def documented_reader():
    code = next(c for c in re.findall(r"```python\n(.*?)```", DOCUMENT, re.S) if "def read" in c)
    names: dict = {}
    exec(code, names)
    return names["read"]


READ = documented_reader()


@given(samples())
def test_the_documented_reader_reads_every_sample(sample: Sample) -> None:
    streams, spans, record = READ(encode_sample(sample))
    assert record == sample.record.to_dict()
    assert spans.tolist() == sample.spans.tolist()
    assert streams.keys() == {BY_NAME[name].code for name in sample.streams}
    for name, stream in sample.streams.items():
        assert np.array_equal(streams[BY_NAME[name].code].reshape(stream.shape), stream)


def test_it_reads_members_that_tar_takes_out(tmp_path: Path) -> None:
    make_corpus(tmp_path, [3])
    with tarfile.open(tmp_path / tar_name(0)) as archive:
        payloads = [archive.extractfile(member).read() for member in archive]
    texts = [READ(payload)[0][0].ravel().tolist() for payload in payloads]
    assert texts == [sample.streams["text"].tolist() for sample in Corpus(tmp_path)]


def test_every_column_is_documented() -> None:
    for name in SCHEMA.names:
        assert name in DOCUMENT or name.endswith("_len"), name
