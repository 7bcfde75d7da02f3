"""Which samples are shown: shares are fair, the draw depends on contents and seed alone."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from audits import Varied
from omni_diffusion.audit.audit import Audit
from omni_diffusion.audit.report.exhibit import read_sample
from omni_diffusion.audit.report.gallery import candidates, in_turns, quotas

GROUPS = st.dictionaries(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("wxyz")), st.integers(0, 30), max_size=12
)


@given(GROUPS, st.integers(0, 80))
def test_quotas_are_fair(sizes: dict[tuple[str, str], int], wanted: int) -> None:
    given_ = quotas(sizes, wanted)
    assert set(given_) == set(sizes)
    assert sum(given_.values()) == min(wanted, sum(sizes.values()))
    assert all(0 <= given_[group] <= sizes[group] for group in sizes)
    of_tasks = {task: sum(n for g, n in given_.items() if g[0] == task) for task, _ in sizes}
    room = {task: sum(n for g, n in sizes.items() if g[0] == task) for task, _ in sizes}
    for a in of_tasks:
        for b in of_tasks:
            assert of_tasks[a] <= of_tasks[b] + 1 or of_tasks[b] == room[b]
    for a in sizes:
        for b in sizes:
            if a[0] == b[0]:
                assert given_[a] <= given_[b] + 1 or given_[b] == sizes[b]


@given(GROUPS)
def test_in_turns_loses_nothing(sizes: dict[tuple[str, str], int]) -> None:
    groups = {g: [(*g, i) for i in range(n)] for g, n in sizes.items()}
    shown = list(in_turns(groups))
    assert sorted(shown) == sorted(item for items in groups.values() for item in items)
    assert [item[0] for item in shown] == sorted(item[0] for item in shown)


def test_candidates_do_not_depend_on_threads_and_are_what_they_say(
    varied: Varied, audit: Audit, tmp_path: Path
) -> None:
    drawn = candidates(audit, 5, seed=1)
    with Audit(varied.root, cache=tmp_path, threads=1) as alone:
        assert candidates(alone, 5, seed=1) == drawn
        assert candidates(alone, 5, seed=2) != drawn
    assert {task for task, _ in drawn} == {"t2i", "vqa", "tts"}
    for group, places in drawn.items():
        for place in places:
            sample = read_sample(audit.corpus.shards, place, {})
            assert (sample.record.task, sample.record.source) == group
            assert varied.shard_of[place.key] == place.shard


def test_of_equal_tokens_one_is_drawn(audit: Audit) -> None:
    """`c0` of the varied corpus is a copy of `p0` in the same source."""
    everything = [p.key for places in candidates(audit, 1000, 0).values() for p in places]
    assert len(everything) == len(set(everything))
    assert ("p0" in everything) != ("c0" in everything)
