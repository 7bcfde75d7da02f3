"""Whatever happens to a corpus on disk is said: no flip passes, no file is taken on trust."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from corpora import FINGERPRINTS, files_of, make_corpus, make_sample, same
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.index import INDEX, compact, write_row_groups
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.corpus.shard import write_shard
from omni_diffusion.corpus.sidecar import (
    SCHEMA,
    encode_sidecar,
    read_sidecar,
    read_table,
    sidecar_name,
    tar_name,
)
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.corpus.verify import rebuild_index, verify
from omni_diffusion.errors import CorpusError, FingerprintError


def problems(folder: Path) -> str:
    return "\n".join(f"{p.path}: {p.reason}" for p in verify(folder, workers=1).problems)


def test_a_whole_corpus_has_no_problems(tmp_path: Path) -> None:
    make_corpus(tmp_path, [3, 0, 2])
    report = verify(tmp_path, workers=2)
    assert (report.problems, report.notes) == ([], [])
    assert (report.shards, report.rows) == (3, 5)


@pytest.mark.parametrize("name", [tar_name(0), sidecar_name(0), INDEX, "corpus.json"])
def test_every_flip_in_every_region_is_reported(tmp_path: Path, name: str) -> None:
    """All header bytes, then a step that visits every field, array and padding."""
    make_corpus(tmp_path, [2])
    path, whole = tmp_path / name, (tmp_path / name).read_bytes()
    step = 1 if name == "corpus.json" else 13
    silent = []
    for at in range(0, len(whole), step):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            found = problems(tmp_path)
        except CorpusError as error:
            found = str(error)
        if not found or str(tmp_path) not in found:
            silent.append(at)
    assert silent == []


def test_a_reader_never_returns_a_wrong_sample(tmp_path: Path) -> None:
    """Every byte of a shard in turn: a read gives the sample as it was, or an error with a name."""
    make_corpus(tmp_path, [2])
    truth = [Corpus(tmp_path).sample(row) for row in range(2)]
    path = tmp_path / tar_name(0)
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x01]) + whole[at + 1 :])
        for row in range(2):
            try:
                assert same(Corpus(tmp_path).sample(row), truth[row])
            except CorpusError as error:
                assert error.path == str(path)


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    make_corpus(tmp_path, [2, 2])
    path = tmp_path / tar_name(1)
    path.write_bytes(path.read_bytes()[:900])
    assert f"{path}: truncated" in problems(tmp_path)
    with pytest.raises(CorpusError, match=tar_name(1)):
        list(Corpus(tmp_path))


def test_missing_files_are_named(tmp_path: Path) -> None:
    make_corpus(tmp_path, [2, 2])
    (tmp_path / tar_name(1)).unlink()
    assert "missing" in problems(tmp_path)
    with pytest.raises(CorpusError, match="no such shard"):
        Corpus(tmp_path).sample(3)
    (tmp_path / INDEX).unlink()
    with pytest.raises(CorpusError, match=INDEX):
        Corpus(tmp_path)


def test_a_lost_sidecar_is_made_again_byte_for_byte(tmp_path: Path) -> None:
    make_corpus(tmp_path, [2, 2])
    before = files_of(tmp_path)
    for lost in (sidecar_name(1), INDEX, "corpus.json"):
        (tmp_path / lost).unlink()
    assert "no sidecar" in "".join(n.reason for n in verify(tmp_path, workers=1).notes)
    rebuild_index(tmp_path)
    assert files_of(tmp_path) == before


def test_nothing_is_rebuilt_on_top_of_damage(tmp_path: Path) -> None:
    make_corpus(tmp_path, [2])
    path = tmp_path / tar_name(0)
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorpusError, match="make this shard again"):
        rebuild_index(tmp_path)
    (tmp_path / sidecar_name(0)).unlink()
    with pytest.raises(CorpusError, match="damaged"):
        rebuild_index(tmp_path)


def test_the_sidecar_of_another_shard_is_not_taken(tmp_path: Path) -> None:
    make_corpus(tmp_path, [2, 2])
    (tmp_path / sidecar_name(1)).write_bytes((tmp_path / sidecar_name(0)).read_bytes())
    assert "is the sidecar of shard 0" in problems(tmp_path)
    with pytest.raises(CorpusError, match="sidecar of shard 0"):
        compact(Storage(tmp_path))


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("text_len", -1, "text_len holds -1"),
        ("wer", float("nan"), "wer holds a value that is not finite"),
        ("offset", 700, "overlap"),
        ("offset", 10**9, "after the tar's"),
        ("shard", 5, r"rows of shards \[0, 5\]"),
        ("text_len", 3, "text_len is 3, the tar says 12"),
        ("task", "other", "task is 'other', the tar says 'svqa'"),
    ],
)
def test_a_sidecar_that_lies_is_found_out(tmp_path: Path, column, value, reason) -> None:
    storage = make_corpus(tmp_path, [2])
    rows = read_table(storage, sidecar_name(0)).to_pylist()
    rows[1][column] = value
    table = read_table(storage, sidecar_name(0)).from_pylist(rows, schema=SCHEMA)
    (tmp_path / sidecar_name(0)).write_bytes(encode_sidecar(table, read_sidecar(storage, 0).info))
    assert re.search(reason, problems(tmp_path))


def test_an_index_of_other_rows_is_found_out(tmp_path: Path) -> None:
    storage = make_corpus(tmp_path, [2])
    rows = read_table(storage, INDEX).to_pylist()
    rows[0]["offset"], rows[1]["offset"] = rows[1]["offset"], rows[0]["offset"]
    table = read_table(storage, INDEX).from_pylist(rows, schema=SCHEMA)
    crcs = {0: read_sidecar(storage, 0).crc}
    write_row_groups(iter([table]), tmp_path / INDEX, lambda: crcs)
    assert "differ from its sidecar" in problems(tmp_path)
    with pytest.raises(CorpusError, match="CRC-32"):
        Corpus(tmp_path).sample(0)


def test_a_key_in_two_shards_is_named(tmp_path: Path) -> None:
    for number in range(2):
        write_shard(Storage(tmp_path), number, [make_sample("twin", number)], FINGERPRINTS)
    with pytest.raises(CorpusError, match=r"'twin' stands twice, in shards \[0, 1\]"):
        compact(Storage(tmp_path))
    assert "'twin' stands twice" in problems(tmp_path)


def test_tokens_of_two_tokenizers_are_shown_side_by_side(tmp_path: Path) -> None:
    write_shard(Storage(tmp_path), 0, [make_sample("a")], FINGERPRINTS)
    write_shard(Storage(tmp_path), 1, [make_sample("b")], {**FINGERPRINTS, "image": "other-2"})
    with pytest.raises(FingerprintError, match=r"image other-2.*image magvit2-demo-1"):
        compact(Storage(tmp_path))
    assert "image other-2" in problems(tmp_path)


def test_lost_rejects_are_missed(tmp_path: Path) -> None:
    reject = Reject(key="bad", stage="decode", reason="truncated")
    write_shard(Storage(tmp_path), 0, [make_sample("a")], FINGERPRINTS, [reject])
    compact(Storage(tmp_path))
    assert problems(tmp_path) == ""
    (tmp_path / "rejects/00000.parquet").unlink()
    assert "holds 0 rejects, the sidecar says 1" in problems(tmp_path)


def test_files_of_a_killed_writer_are_a_note_and_no_problem(tmp_path: Path) -> None:
    make_corpus(tmp_path, [1])
    (tmp_path / "shards/.tmp-00001.tar-abc").write_bytes(b"half")
    report = verify(tmp_path, workers=1)
    assert report.problems == []
    assert [Path(n.path).name for n in report.notes] == [".tmp-00001.tar-abc"]


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    make_corpus(tmp_path, [1])
    manifest = json.loads((tmp_path / "corpus.json").read_text())
    (tmp_path / "corpus.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(CorpusError, match="format version 99, this program reads 1"):
        Corpus(tmp_path)


def test_a_place_without_a_corpus_says_so(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no corpus here"):
        Corpus(tmp_path / "nothing")
    assert "no corpus here" in problems(tmp_path / "nothing")


def test_row_groups_and_sidecars_need_not_line_up(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("omni_diffusion.corpus.index.ROW_GROUP", 3)
    make_corpus(tmp_path, [2, 5, 1, 4])
    assert pq.ParquetFile(tmp_path / INDEX).metadata.num_row_groups == 4
    assert problems(tmp_path) == ""
    assert [s.key for s in Corpus(tmp_path)] == [f"s{i}" for i in range(12)]
    assert np.array_equal(Corpus(tmp_path).index.shard, np.repeat(range(4), [2, 5, 1, 4]))
