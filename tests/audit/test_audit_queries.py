"""Every named query against an answer that plain Python reckons from the samples."""

import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest

from audits import Varied
from omni_diffusion.audit.audit import Audit
from omni_diffusion.audit.guard import QueryError
from omni_diffusion.audit.named import named_queries, named_query
from omni_diffusion.audit.views import TURN_IDS
from omni_diffusion.corpus.sample import Sample, content_hash, encode_sample
from omni_diffusion.tokenize.vocabulary import IMAGE_CODEBOOK_SIZE, SPEECH_CODEBOOK_SIZE
from omni_diffusion.training.lengths import LengthRule
from omni_diffusion.training.recipe import DataRecipe


def ask(audit: Audit, name: str, **settings: str) -> list[dict[str, Any]]:
    query = named_query(name)
    return audit.rows(query.sql, query.values(settings))


def tokens(sample: Sample) -> int:
    return sum(len(stream) for stream in sample.streams.values())


def sequence(sample: Sample) -> int:
    """Ids of two turns of one piece each; where one is a sound, both are taken for sounds."""
    return tokens(sample) + 2 * TURN_IDS + (4 if "speech" in sample.streams else 2)


def share(part: float, whole: float) -> Any:
    return pytest.approx(part / whole, abs=1e-6)


def test_every_query_says_what_it_answers(audit: Audit) -> None:
    for name, query in named_queries().items():
        assert len(query.summary) > 20, name
        assert ask(audit, name) is not None
        for parameter in query.parameters.values():
            assert parameter.about


def test_sizes_that_queries_assume_are_those_of_the_tokenizers_and_the_trainer() -> None:
    defaults = {n: p.default for n, p in named_query("codebooks").parameters.items()}
    assert defaults == {"image_codes": IMAGE_CODEBOOK_SIZE, "speech_codes": SPEECH_CODEBOOK_SIZE}
    row_length = DataRecipe.model_fields["row_length"].default
    assert named_query("packing").parameters["row"].default == row_length


def test_mixture_holds_shares_against_weights(audit: Audit, varied: Varied) -> None:
    by_task: dict[str, list[Sample]] = defaultdict(list)
    for sample in varied.samples:
        by_task[sample.record.task].append(sample)
    supervised = {t: sum(s.supervised_length for s in group) for t, group in by_task.items()}
    rows = {row["name"]: row for row in ask(audit, "mixture")}
    assert set(rows) == {"t2i", "vqa", "tts", "asr"}
    for task, group in by_task.items():
        row = rows[task]
        assert (row["samples"], row["supervised"]) == (len(group), supervised[task])
        assert row["tokens"] == sum(map(tokens, group))
        assert row["sample_share"] == share(len(group), len(varied.samples))
        assert row["supervised_share"] == share(supervised[task], sum(supervised.values()))
    assert rows["t2i"]["configured_share"] == 0.6
    assert rows["t2i"]["repeats"] == pytest.approx(
        0.6 * sum(supervised.values()) / supervised["t2i"], abs=1e-4
    )
    assert rows["vqa"]["configured_share"] is None
    assert (rows["asr"]["samples"], rows["asr"]["configured_share"]) == (0, 0.2)
    assert {r["name"] for r in ask(audit, "mixture", by="language")} == {"en", "zh", *rows} - {
        "vqa"
    }


def test_lengths_are_the_planners(audit: Audit, varied: Varied) -> None:
    numbers = audit.query("SELECT * FROM samples").read_all()
    arrays = {n: numbers[n].to_numpy() for n in numbers.column_names if n.endswith(("_len", "ans"))}
    planned = LengthRule(TURN_IDS).bound(arrays)
    assert np.array_equal(arrays["sequence_len"], planned)
    rows = {row["name"]: row for row in ask(audit, "lengths", by="source")}
    for source in ("pictures", "questions", "voices", "captions"):
        lengths = sorted(sequence(s) for s in varied.samples if s.record.source == source)
        row = rows[source]
        assert (row["samples"], row["shortest"]) == (len(lengths), lengths[0])
        assert row["longest"] == lengths[-1]
        assert row["mean"] == pytest.approx(sum(lengths) / len(lengths), abs=0.01)
        for name, part in (("p05", 0.05), ("p25", 0.25), ("median", 0.5), ("p99", 0.99)):
            assert row[name] == lengths[math.ceil(part * len(lengths)) - 1]


def test_packing_fill_by_length(audit: Audit, varied: Varied) -> None:
    row_ids, bin_ids = 700, 100
    *bins, total = ask(audit, "packing", row=str(row_ids), bin=str(bin_ids))
    lengths = [sequence(s) for s in varied.samples]
    for found in bins:
        inside = [n for n in lengths if found["from_ids"] <= n <= found["to_ids"]]
        fitting = [n for n in inside if n <= row_ids]
        assert (found["samples"], found["too_long"]) == (len(inside), len(inside) - len(fitting))
        assert found["id_share"] == share(sum(inside), sum(lengths))
        if fitting:
            rows = sum(1 / (row_ids // n) for n in fitting)
            alone, equals = (sum(fitting) / (row_ids * n) for n in (len(fitting), rows))
            assert found["fill_alone"] == pytest.approx(alone, abs=1e-4)
            assert found["fill_with_equals"] == pytest.approx(equals, abs=1e-4)
    assert sum(found["samples"] for found in bins) == total["samples"] == len(lengths)


def hashes(varied: Varied) -> dict[int, list[Sample]]:
    by_hash: dict[int, list[Sample]] = defaultdict(list)
    for sample in varied.samples:
        by_hash[content_hash(encode_sample(sample))].append(sample)
    return by_hash


def test_duplicates_inside_and_across_sources(audit: Audit, varied: Varied) -> None:
    extra, shared = Counter[str](), Counter[str]()
    for group in hashes(varied).values():
        sources = Counter(s.record.source for s in group)
        for source, n in sources.items():
            extra[source] += n - 1
            shared[source] += n if len(sources) > 1 else 0
    rows = {row["source"]: row for row in ask(audit, "duplicates")}
    assert {s: r["extra_copies"] for s, r in rows.items() if r["extra_copies"]} == +extra
    assert {s: r["shared"] for s, r in rows.items() if r["shared"]} == +shared
    assert (extra["pictures"], extra["voices"], shared["captions"]) == (1, 3, 1)


def test_duplicate_samples_are_named(audit: Audit, varied: Varied) -> None:
    repeated = {h: group for h, group in hashes(varied).items() if len(group) > 1}
    rows = ask(audit, "duplicate_samples")
    assert {r["content_hash"]: r["copies"] for r in rows} == {
        h: len(group) for h, group in repeated.items()
    }
    for row in rows:
        group = repeated[row["content_hash"]]
        assert row["first_keys"] == [s.key for s in group]
        assert row["sources"] == sorted({s.record.source for s in group})
    assert len(ask(audit, "duplicate_samples", limit="1")) == 1


def test_voice_holes_and_speakers(audit: Audit, varied: Varied) -> None:
    spoken = [s for s in varied.samples if s.record.task == "tts"]
    counts = Counter((s.record.provenance["voice"], s.record.language) for s in spoken)
    pairs = {(v, lang) for v, _ in counts for _, lang in counts}
    holes = {(r["voice"], r["language"]): r["samples"] for r in ask(audit, "voice_holes")}
    assert holes == dict.fromkeys(pairs - set(counts), 0)
    few = {(r["voice"], r["language"]) for r in ask(audit, "voice_holes", fewer_than="4")}
    assert few == {pair for pair in pairs if counts[pair] < 4}

    rows = ask(audit, "speakers", by="all")
    assert {(r["voice"], r["language"]): r["samples"] for r in rows} == counts
    codes: dict[tuple[str, str], int] = defaultdict(int)
    for sample in spoken:
        place = sample.record.provenance["voice"], sample.record.language
        codes[place] += len(sample.streams["speech"])
    average = sum(codes.values()) / len(codes)
    for row in rows:
        times = codes[row["voice"], row["language"]] / average
        assert row["times_average"] == pytest.approx(times, abs=1e-3)


def codes_of(varied: Varied, stream: str) -> tuple[Counter[int], dict[int, set[int]]]:
    """How often each code occurs, and in which shards."""
    codes: Counter[int] = Counter()
    shards: dict[int, set[int]] = defaultdict(set)
    for sample in varied.samples:
        found = sample.streams.get(stream, np.empty(0, int)).tolist()
        codes.update(found)
        for code in found:
            shards[code].add(varied.shard_of[sample.key])
    return codes, shards


def test_codebooks(audit: Audit, varied: Varied) -> None:
    image = codes_of(varied, "image256")[0] + codes_of(varied, "image512")[0]
    speech = codes_of(varied, "speech")[0]
    rows = {row["codebook"]: row for row in ask(audit, "codebooks", image_codes="400")}
    for book, codes, size in (("image", image, 400), ("speech", speech, SPEECH_CODEBOOK_SIZE)):
        total, row = codes.total(), rows[book]
        entropy = -sum(n / total * math.log2(n / total) for n in codes.values())
        assert (row["codes"], row["used"]) == (total, len(codes))
        assert (row["dead"], row["outside"]) == (size - len(codes), 0)
        assert row["entropy_bits"] == pytest.approx(entropy, abs=1e-4)
        assert row["perplexity"] == pytest.approx(2**entropy, abs=0.1)
        assert row["top_share"] == share(codes.most_common(1)[0][1], total)


@pytest.mark.parametrize("stream", ["image256", "image512", "speech"])
def test_top_codes(audit: Audit, varied: Varied, stream: str) -> None:
    codes, shards = codes_of(varied, stream)
    best = sorted(codes.items(), key=lambda pair: (-pair[1], pair[0]))[:5]
    rows = [row for row in ask(audit, "top_codes", top="5") if row["stream"] == stream]
    assert [(r["code"], r["count"]) for r in rows] == best
    assert [r["shards"] for r in rows] == [len(shards[code]) for code, _ in best]


def test_codes_outside_the_code_book_are_seen(audit: Audit) -> None:
    row = ask(audit, "codebooks", image_codes="100")[0]
    assert (row["used"], row["dead"]) == (100, 0)
    assert row["outside"] == 200


@pytest.mark.parametrize("measure", ["wer", "cer"])
def test_gate_keeps_what_is_measured_and_good(audit: Audit, varied: Varied, measure: str) -> None:
    rows = ask(audit, "gate", measure=measure)
    assert {row["language"] for row in rows} == {"en", "zh"}
    for row in rows:
        heard = [s for s in varied.samples if "speech" in s.streams]
        group = [s for s in heard if s.record.language == row["language"]]
        rates = [s.record.quality[measure] for s in group if measure in s.record.quality]
        kept = sum(np.float32(rate) <= np.float32(row["threshold"]) for rate in rates)
        assert (row["kept"], row["measured"]) == (kept, len(rates))
        assert row["unmeasured"] == len(group) - len(rates)
        assert row["kept_share"] == share(kept, len(rates))


def test_rejects_by_reason(audit: Audit) -> None:
    first, second = ask(audit, "rejects")
    assert (first["stage"], first["reason"]) == ("decode", "truncated JPEG")
    assert (first["records"], first["shards"], first["first_key"]) == (2, 2, "bad0")
    assert first["first_detail"] == "at 0"
    assert (second["records"], second["share"]) == (1, share(1, 3))


def test_provenance(audit: Audit, varied: Varied) -> None:
    expected = Counter(
        (r.source, r.license or None, r.provenance.get("tts_engine"))
        for r in (s.record for s in varied.samples)
    )
    rows = ask(audit, "provenance")
    assert {(r["source"], r["license"], r["tts_engine"]): r["samples"] for r in rows} == expected
    assert sum(r["tokens"] for r in rows) == sum(map(tokens, varied.samples))
    assert sum(r["without_origin"] for r in rows) == sum(
        "origin" not in s.record.provenance for s in varied.samples
    )


def test_leakage_finds_equal_tokens_in_another_corpus(
    varied: Varied, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from audits import FINGERPRINTS, copy_of
    from omni_diffusion.corpus.index import compact
    from omni_diffusion.corpus.shard import write_shard
    from omni_diffusion.corpus.storage import Storage

    root = tmp_path_factory.mktemp("evaluation")
    chosen = [varied.shards[0][5], varied.shards[2][7]]
    copies = [copy_of(s, f"e{i}", "held-out") for i, s in enumerate(chosen)]
    write_shard(Storage(root), 0, copies, FINGERPRINTS)
    compact(Storage(root))
    with Audit(varied.root, against=root) as audit:
        rows = ask(audit, "leakage")
    assert [(r["source"], r["samples"], r["first_key"], r["its_other_key"]) for r in rows] == [
        ("pictures", 1, chosen[0].key, "e0"),
        ("voices", 1, chosen[1].key, "e1"),
    ]


def test_shard_health_is_quiet_where_all_is_well(audit: Audit, varied: Varied) -> None:
    rows = ask(audit, "shard_health")
    assert [row["problem"] for row in rows] == [None] * 4
    assert [row["rows"] for row in rows] == [len(shard) for shard in varied.shards]
    assert [row["rejects"] for row in rows] == [1, 1, 1, 0]


def test_parameters_that_are_wrong_are_refused(audit: Audit) -> None:
    with pytest.raises(QueryError, match="no parameter 'size'; it has: row, bin"):
        named_query("packing").values({"size": "1"})
    with pytest.raises(QueryError, match="'many' is not of the type int"):
        named_query("packing").values({"row": "many"})
    with pytest.raises(QueryError, match="by must be task, source or language"):
        ask(audit, "mixture", by="voice")
    with pytest.raises(QueryError, match="no named query 'nope'; there are: code_ranks, codebooks"):
        named_query("nope")
