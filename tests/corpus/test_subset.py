"""A subset is a corpus: verified, streamed, trained on; it copies no shard and outlives a move."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora import files_of, make_corpus
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.index import INDEX, SIDECARS
from omni_diffusion.corpus.manifest import MANIFEST, read_manifest
from omni_diffusion.corpus.sidecar import SCHEMA, sidecar_name, tar_name
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.corpus.stream import SampleStream
from omni_diffusion.corpus.subset import write_subset
from omni_diffusion.corpus.verify import rebuild_index, verify
from omni_diffusion.errors import CorpusError

CHOSEN = ["s7", "s1", "s2", "s7"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_corpus(tmp_path / "all", [3, 2, 4])
    return tmp_path / "all"


def choose(root: Path, keys: list[str], target: Path, digest: str = "") -> Any:
    return write_subset(root, pa.array(keys), target, recipe_digest=digest)


def test_a_subset_is_read_verified_and_streamed_like_any_corpus(root: Path) -> None:
    target = root.parent / "some"
    manifest = choose(root, CHOSEN, target)
    assert (manifest.rows, manifest.shards, manifest.base) == (3, 2, "../all")
    whole, some = Corpus(root), Corpus(target)
    assert [sample.key for sample in some] == ["s1", "s2", "s7"]
    for sample in some:
        assert sample.record == whole.get(sample.key).record
    assert manifest.lengths["text_len"] == sum(len(s.streams["text"]) for s in some)
    report = verify(target, workers=1)
    assert report.problems == [] and (report.shards, report.rows) == (2, 3)
    seen = [s.key for step in SampleStream(corpus=some, batch_size=2) for s in step]
    assert set(seen) == {"s1", "s2", "s7"}
    assert sorted(path.name for path in target.iterdir()) == [MANIFEST, INDEX]


def test_a_subset_of_a_subset_refers_to_the_shards_themselves(root: Path) -> None:
    choose(root, CHOSEN, root.parent / "some")
    again = choose(root.parent / "some", ["s7"], root.parent / "deep/fewer")
    assert again.base == "../../all"
    direct = choose(root, ["s7"], root.parent / "direct")
    assert again.digest == direct.digest and again.index_digest == direct.index_digest
    shutil.rmtree(root.parent / "some")
    assert verify(root.parent / "deep/fewer", workers=1).problems == []
    with pytest.raises(CorpusError, match="no sample has the key 's0'"):
        choose(root.parent / "direct", ["s0"], root.parent / "no")


def test_a_tree_of_corpora_can_be_moved(root: Path, tmp_path_factory: Any) -> None:
    choose(root, CHOSEN, root.parent / "some")
    moved = tmp_path_factory.mktemp("elsewhere") / "tree"
    shutil.move(root.parent, moved)
    link = moved.parent / "link"
    link.symlink_to(moved / "some")
    for place in (moved / "some", link):
        assert [sample.key for sample in Corpus(place)] == ["s1", "s2", "s7"]
        assert verify(place, workers=1).problems == []


@settings(max_examples=20, deadline=None)
@given(chosen=st.sets(st.integers(0, 8), min_size=1), order=st.randoms())
def test_any_choice_of_rows(
    tmp_path_factory: pytest.TempPathFactory, chosen: set[int], order: Any
) -> None:
    folder = tmp_path_factory.mktemp("any")
    make_corpus(folder / "all", [3, 2, 4])
    keys = [f"s{i}" for i in chosen]
    order.shuffle(keys)
    before = files_of(folder / "all")
    manifest = choose(folder / "all", keys, folder / "some")
    assert [s.key for s in Corpus(folder / "some")] == [f"s{i}" for i in sorted(chosen)]
    assert manifest.rows == len(chosen) and files_of(folder / "all") == before
    assert choose(folder / "all", sorted(keys), folder / "some") == manifest


def test_what_cannot_be_chosen_is_refused_and_leaves_nothing(root: Path) -> None:
    target = root.parent / "some"
    for keys, said in (
        (["s1", "x", "y"], r"no sample has the key 'x' \(and 1 more\)"),
        ([], "no sample is chosen"),
    ):
        with pytest.raises(CorpusError, match=said):
            choose(root, keys, target)
        assert files_of(target) == {}
    with pytest.raises(CorpusError, match="holds another corpus"):
        choose(root, ["s1"], root)
    choose(root, ["s1"], target, "one")
    with pytest.raises(CorpusError, match="holds another corpus"):
        choose(root, ["s2"], target, "another")
    (root.parent / "full").mkdir()
    (root.parent / "full/notes.txt").write_text("mine")
    with pytest.raises(CorpusError, match="is not empty"):
        choose(root, ["s1"], root.parent / "full")
    with pytest.raises(CorpusError, match="there is no corpus here"):
        choose(root.parent / "nothing", ["s1"], root.parent / "new")
    with pytest.raises(CorpusError, match=r"is a subset of \.\./all: make it again"):
        rebuild_index(target)


def test_an_index_of_an_older_version_says_how_to_renew_it(root: Path) -> None:
    index = root / "index.parquet"
    table = pq.read_table(index)
    pq.write_table(table.drop_columns(["clip_score"]), index)
    with pytest.raises(CorpusError, match=r"missing: clip_score.*verify --rebuild-index"):
        choose(root, ["s1"], root.parent / "some")
    rebuild_index(root)
    assert choose(root, ["s1"], root.parent / "some").rows == 1


def test_verify_finds_what_changed_beneath_a_subset(root: Path) -> None:
    target = root.parent / "some"
    choose(root, CHOSEN, target)
    tar, data = root / tar_name(2), (root / tar_name(2)).read_bytes()

    def found() -> str:
        return " ".join(f"{p.path}: {p.reason}" for p in verify(target, workers=1).problems)

    row = Corpus(target).index.offset[2]
    changed = bytearray(data)
    changed[row + 40] ^= 1
    tar.write_bytes(changed)
    assert "00002.tar" in found()
    changed = bytearray(data)
    changed[row - 512] ^= 1  # the name in the tar's header
    tar.write_bytes(changed)
    assert "no sample 's7'" in found()
    tar.unlink()
    assert "00002.tar" in found()
    tar.write_bytes(data)
    sidecar = (root / sidecar_name(0)).read_bytes()
    make_corpus(root.parent / "other", [2])
    (root / sidecar_name(0)).write_bytes((root.parent / "other" / sidecar_name(0)).read_bytes())
    assert "is not the file that the subset was made from" in found()
    (root / sidecar_name(0)).write_bytes(sidecar)
    assert found() == ""
    shutil.move(root, root.parent / "gone")
    assert "shards/00000" in found() and "shards/00002" in found()


def test_verify_finds_an_index_that_was_tampered_with(root: Path) -> None:
    target = root.parent / "some"
    choose(root, CHOSEN, target)
    table = pq.read_table(target / INDEX)
    crcs = pq.read_metadata(target / INDEX).metadata[SIDECARS.encode()]

    def rewrite(rows: pa.Table) -> None:
        with pq.ParquetWriter(target / INDEX, SCHEMA) as writer:
            writer.write_table(rows.replace_schema_metadata(None))
            writer.add_key_value_metadata({SIDECARS: crcs})

    rewrite(table.take(pa.array([2, 0, 1])))
    reasons = " ".join(problem.reason for problem in verify(target, workers=1).problems)
    assert "not in the order" in reasons and "index_digest" in reasons
    column = table.schema.get_field_index("text_len")
    lies = table.set_column(column, table.schema.field(column), pa.array(np.full(3, 5, np.int32)))
    rewrite(lies)
    reasons = " ".join(problem.reason for problem in verify(target, workers=1).problems)
    assert "differ from its samples" in reasons and "lengths" in reasons
    (target / INDEX).unlink()
    assert [p.path for p in verify(target, workers=1).problems] == [str(target / INDEX)]


def test_a_manifest_of_a_whole_corpus_names_no_base(root: Path) -> None:
    assert b"base" not in (root / MANIFEST).read_bytes()
    assert read_manifest(Storage(root)).base == ""
