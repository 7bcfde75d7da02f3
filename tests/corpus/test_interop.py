"""Token shards are ordinary archives: other people's tools read them, and read the same."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

import datasets
import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from corpora import FINGERPRINTS, make_corpus, make_sample, same, samples
from omni_diffusion.corpus import interop
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.interop import from_webdataset
from omni_diffusion.corpus.sample import Sample, encode_sample
from omni_diffusion.corpus.shard import write_shard
from omni_diffusion.corpus.sidecar import tar_name
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError

DOCUMENT = Path(__file__).parents[2] / "docs/format.md"
COUNTS = [2, 1, 0, 3, 1, 1, 2, 1]
"""Eight shards, as in the documented lines; one of them is empty."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A place that holds a corpus in `corpus/`."""
    folder = tmp_path_factory.mktemp("place")
    make_corpus(folder / "corpus", COUNTS)
    return folder


def tars(folder: Path) -> list[str]:
    return [str(path) for path in sorted((folder / "corpus/shards").glob("*.tar"))]


def assert_whole(found: Iterable[Sample]) -> None:
    """All samples of the corpus, each once, with the arrays and records they were made with."""
    by_key = sorted(found, key=lambda sample: int(sample.key[1:]))
    assert len(by_key) == sum(COUNTS)
    assert all(same(sample, make_sample(f"s{i}", i)) for i, sample in enumerate(by_key))


def test_the_five_lines_of_the_module_print_the_whole_corpus(folder, monkeypatch, capsys) -> None:
    lines = (interop.__doc__ or "").partition("\n\n")[2].strip().splitlines()
    assert len(lines) == 5
    monkeypatch.chdir(folder)
    exec("\n".join(lines), {})
    printed = capsys.readouterr().out
    for i in range(sum(COUNTS)):
        made = make_sample(f"s{i}", i)
        assert f"s{i} {made.streams['text']} {made.record.messages}" in printed


def test_every_documented_snippet_for_other_loaders_runs(folder, monkeypatch, capsys) -> None:
    snippets = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)
    snippets = [s for s in snippets if "from_webdataset" in s]
    assert len(snippets) == 2
    monkeypatch.chdir(folder)
    for snippet in snippets:
        exec(snippet, {})
        printed = capsys.readouterr().out
        assert re.findall(r"^s\d+", printed, re.M) == [f"s{i}" for i in range(sum(COUNTS))]


def test_webdataset_reads_the_same_samples(folder: Path) -> None:
    assert_whole(
        wds.WebDataset(tars(folder), shardshuffle=False, empty_check=False).map(from_webdataset)
    )


def test_datasets_reads_the_same_samples(folder: Path) -> None:
    rows = datasets.load_dataset(
        "webdataset", data_files=tars(folder), split="train", streaming=True
    )
    assert_whole(from_webdataset(row) for row in rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_over_webdataset_give_each_sample_once(folder: Path, workers: int) -> None:
    shards = wds.WebDataset(tars(folder), shardshuffle=False, empty_check=False)
    loader = DataLoader(shards.map(from_webdataset), batch_size=None, num_workers=workers)
    assert_whole(loader)


def test_a_corpus_reads_what_webdataset_reads(folder: Path) -> None:
    assert_whole(Corpus(folder / "corpus"))


def test_gnu_tar_lists_and_unpacks_a_shard(folder: Path, tmp_path: Path) -> None:
    for path in tars(folder):
        listed = subprocess.run(["tar", "tf", path], capture_output=True, check=True)
        assert listed.stderr == b""
        subprocess.run(["tar", "xf", path, "-C", tmp_path], check=True, capture_output=True)
        assert len(listed.stdout.split()) == COUNTS[int(Path(path).stem)]
    unpacked = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    made = [make_sample(f"s{i}", i) for i in range(sum(COUNTS))]
    assert unpacked == {f"{sample.key}.omni": encode_sample(sample) for sample in made}


@settings(max_examples=30)
@given(st.lists(samples(), max_size=4, unique_by=lambda sample: sample.key))
def test_any_shard_is_a_tar_to_python_and_to_webdataset(tmp_path_factory, made) -> None:
    storage = Storage(tmp_path_factory.mktemp("corpus"))
    write_shard(storage, 0, made, FINGERPRINTS)
    path = storage.path(tar_name(0))
    with tarfile.open(path, "r:") as archive:
        found = {info.name: archive.extractfile(info).read() for info in archive}
    assert found == {f"{sample.key}.omni": encode_sample(sample) for sample in made}
    rows = wds.WebDataset(path, shardshuffle=False, empty_check=False).map(from_webdataset)
    assert all(same(*pair) for pair in zip(rows, made, strict=True))


def test_rows_that_are_no_token_samples_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "foreign.tar"
    with wds.TarWriter(str(path)) as writer:
        writer.write({"__key__": "a", "txt": "hello"})
    with pytest.raises(CorpusError, match=r"foreign\.tar: a has no member \.omni"):
        next(iter(wds.WebDataset(str(path), shardshuffle=False).map(from_webdataset)))

    payload = bytearray(encode_sample(make_sample("b", 1)))
    payload[-1] ^= 1
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("b.omni")
        info.size = len(payload)
        archive.addfile(info, io.BytesIO(payload))
    with pytest.raises(CorpusError, match=r"foreign\.tar: member b\.omni: damaged"):
        next(iter(wds.WebDataset(str(path), shardshuffle=False).map(from_webdataset)))


def test_arrays_have_the_published_types(folder: Path) -> None:
    sample = next(iter(wds.WebDataset(tars(folder), shardshuffle=False).map(from_webdataset)))
    types = {name: stream.dtype for name, stream in sample.streams.items()}
    assert types == {"text": np.uint32, "image256": np.uint16, "speech": np.uint16}
