"""`audit A --against B`: what changed, sample by sample, and which distributions moved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from audits import FINGERPRINTS, Varied, copy_of, make_varied, speech
from corpora import make_corpus, make_sample
from omni_diffusion.audit.audit import Audit
from omni_diffusion.audit.compare import Comparison, Drift, compare
from omni_diffusion.audit.guard import QueryError
from omni_diffusion.cli import app
from omni_diffusion.corpus.index import compact
from omni_diffusion.corpus.sample import Sample, build_sample
from omni_diffusion.corpus.shard import write_shard
from omni_diffusion.corpus.storage import Storage


def corpus_of(root: Path, samples: list[Sample]) -> str:
    write_shard(Storage(root), 0, samples, FINGERPRINTS)
    compact(Storage(root))
    return str(root)


def compared(mine: str, theirs: str, cache: Path) -> Comparison:
    with Audit(mine, against=theirs, cache=cache) as audit:
        return compare(audit)


def drift(found: Comparison, name: str) -> Drift:
    [one] = [d for d in found.drifts if d.name == name]
    return one


def test_every_kind_of_change_is_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    old = [speech(f"v{i}", rng, 0, "en", 0.1) for i in range(8)]
    new = old[2:]  # v0 and v1 are gone
    new[0] = speech("v2", rng, 0, "en", 0.1)  # other tokens
    new[1] = copy_of(old[3], "v3", "elsewhere")  # the same tokens, another record
    new += [copy_of(old[0], "w0", "voices"), speech("w1", rng, 0, "en", 0.1)]
    mine, theirs = corpus_of(tmp_path / "new", new), corpus_of(tmp_path / "old", old)
    found = compared(mine, theirs, tmp_path / "cache")
    total = found.changes[-1]
    assert total.source == "(all)"
    assert (total.added, total.removed, total.changed, total.relabelled, total.same) == (
        *(2, 2, 1),
        *(1, 4),
    )
    assert total.renamed == 1
    assert (total.first_added, total.first_removed, total.first_changed) == ("w0", "v0", "v2")
    assert {c.source: c.relabelled for c in found.changes[:-1]} == {"voices": 0, "elsewhere": 1}
    for name in ("added", "removed", "changed", "relabelled", "same", "renamed"):
        assert sum(getattr(c, name) for c in found.changes[:-1]) == getattr(total, name)


def test_a_corpus_does_not_differ_from_itself(varied: Varied, tmp_path: Path) -> None:
    found = compared(varied.root, varied.root, tmp_path / "cache")
    assert [c.same for c in found.changes][-1] == len(varied.samples)
    assert all(c.added == c.removed == c.changed == c.renamed == 0 for c in found.changes)
    assert all(d.distance == 0 and not d.drifts and d.mine == d.theirs for d in found.drifts)
    assert {"task", "voice", "sequence_len", "wer", "image256 codes", "speech codes"} <= {
        d.name for d in found.drifts
    }
    assert not {"clip_score", "features_len codes"} & {d.name for d in found.drifts}


def test_what_moved_is_found_and_what_did_not_is_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)

    def spoken(prefix: str, wer: float, n: int = 400) -> list[Sample]:
        rates = np.round(rng.exponential(wer, n), 3)
        return [speech(f"{prefix}{i}", rng, i % 4, "en", float(r)) for i, r in enumerate(rates)]

    mine = corpus_of(tmp_path / "a", spoken("a", 0.2))
    theirs = corpus_of(tmp_path / "b", spoken("b", 0.05))
    found = compared(mine, theirs, tmp_path / "cache")
    assert drift(found, "wer").drifts and drift(found, "wer").distance > 0.3
    assert "mean 0.0" in drift(found, "wer").most
    for name in ("voice", "text_len", "speech_len", "speech codes", "language"):
        assert not drift(found, name).drifts, name


def test_labels_that_vanish_are_a_drift(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    samples = [speech(f"v{i}", rng, 0, "en", None) for i in range(60)]
    bare = [replace_record(s, language="", license="") for s in samples]
    mine, theirs = corpus_of(tmp_path / "a", bare), corpus_of(tmp_path / "b", samples)
    found = compared(mine, theirs, tmp_path / "cache")
    assert drift(found, "language").distance == 1 and drift(found, "language").drifts
    assert found.changes[-1].relabelled == 60


def test_codes_of_other_tokenizers_are_not_compared(tmp_path: Path) -> None:
    old, new = make_varied(tmp_path / "old", per_shard=4).root, tmp_path / "new"
    make_varied(new, per_shard=4, fingerprints=FINGERPRINTS | {"image": "magvit2-other"})
    with Audit(new, against=old, cache=tmp_path / "cache") as audit:
        found = compare(audit)
        assert audit.notes == ["image tokens are of different tokenizers: codes were not compared"]
    names = {d.name for d in found.drifts}
    assert "speech codes" in names and not any("image" in n and "codes" in n for n in names)
    assert ("image tokens by", "magvit2-other", "magvit2-demo-1") in found.corpora


def replace_record(sample: Sample, **fields: str) -> Sample:
    record = replace(sample.record, **fields)
    return build_sample(sample.key, record, sample.streams, sample.spans)


@settings(max_examples=10, deadline=None)
@given(mine=st.sets(st.integers(0, 9), min_size=1), theirs=st.sets(st.integers(0, 9), min_size=1))
def test_added_and_removed_are_the_difference_of_sets(
    tmp_path_factory: pytest.TempPathFactory, mine: set[int], theirs: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("sets")
    one, two = (
        corpus_of(folder / name, [make_sample(f"s{i}", i) for i in sorted(keys)])
        for name, keys in (("a", mine), ("b", theirs))
    )
    total = compared(one, two, folder / "cache").changes[-1]
    assert (total.added, total.removed, total.same) == (
        len(mine - theirs),
        len(theirs - mine),
        len(mine & theirs),
    )


def test_the_verb_prints_tables_and_json(tmp_path: Path) -> None:
    old = make_varied(tmp_path / "old", per_shard=4)
    make_corpus(tmp_path / "new", [3])
    options = ["audit", str(tmp_path / "new"), "--against", old.root]
    options += ["--cache", str(tmp_path / "cache")]
    text = CliRunner().invoke(app, options, catch_exceptions=False).output
    assert "samples, from theirs to mine" in text and "more than chance explains: " in text
    out = str(tmp_path / "found.json")
    assert CliRunner().invoke(app, [*options, "-o", out], catch_exceptions=False).output == ""
    found = json.loads(Path(out).read_text())
    assert found["changes"][-1]["added"] == 3 and found["corpora"][0][0] == "corpus"
    with pytest.raises(QueryError, match="table or json, not csv"):
        CliRunner().invoke(app, [*options, "--format", "csv"], catch_exceptions=False)
    with (
        Audit(old.root, cache=tmp_path / "cache") as audit,
        pytest.raises(QueryError, match="no second corpus"),
    ):
        compare(audit)
