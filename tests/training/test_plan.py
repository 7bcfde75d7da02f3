"""Steps follow from recipe and index alone; a run goes on only with the plan that it began with."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan_streams import indexes, lengths_of

from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.errors import CorpusError, FingerprintError, OmniError
from omni_diffusion.tokenize.chat import ChatTemplate
from omni_diffusion.tokenize.spans import from_corpus
from omni_diffusion.training.lengths import LengthRule, Lengths
from omni_diffusion.training.noise import word
from omni_diffusion.training.opening import open_data
from omni_diffusion.training.plan import Plan, PlanError
from omni_diffusion.training.recipe import DataRecipe, EvaluationRecipe
from omni_diffusion.training.report import report
from training_corpora import ANSWERS, FINGERPRINTS, TOKENIZER, training_corpus, training_sample
from training_fixtures import make_recipe

TEMPLATE = ChatTemplate(TOKENIZER)


@dataclass
class Indexed:
    """A source that has an index and nothing else."""

    name: str
    lengths: Lengths
    digest: str = "d"
    storage: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(root="nowhere"))

    @property
    def word(self) -> np.uint64:
        return np.uint64(word("source", self.name))


def plan_of(sources: list[Lengths], weights: list[float], **changes) -> Plan:
    names = [f"s{i}" for i in range(len(sources))]
    values = {"row_length": 64, "rows_per_step": 3, "window_rows": 8, "shuffle_shards": 2}
    entries = {n: {"corpus": "x", "weight": w} for n, w in zip(names, weights, strict=True)}
    values |= {"sources": entries, "tokenizer": "demo", "tail_pads": 3} | changes
    opened = [Indexed(n, s) for n, s in zip(names, sources, strict=True)]
    return Plan(DataRecipe.model_validate(values), opened)


def samples_of(plan: Plan, steps) -> list[tuple[int, ...]]:
    found = []
    for step in map(plan.step, steps):
        columns = (step.source, step.epoch, step.index, step.pads)
        found += zip(*(column.tolist() for column in columns), strict=True)
    return found


@settings(max_examples=40)
@given(st.lists(indexes(), min_size=1, max_size=3), st.integers(0, 5), st.integers(0, 3))
def test_steps_hold_the_mixture_s_samples_once_each_in_rows_that_fit(sources, seed, first) -> None:
    """Nothing is dropped, repeated or cut where windows and steps meet."""
    plan = plan_of(sources, [1.0] * len(sources), seed=seed)
    steps = plan.steps_per_window
    numbers = range(first * steps, (first + 3) * steps)
    start = plan.samples_before(first * steps)
    stop = plan.samples_before((first + 3) * steps)
    wanted = []
    for i, order in enumerate(plan.mixture.orders):
        rows, epochs = order.between(start[i], stop[i])
        wanted += zip([i] * len(rows), epochs.tolist(), rows.tolist(), strict=True)
    assert sorted(s[:3] for s in samples_of(plan, numbers)) == sorted(wanted)
    for step in map(plan.step, numbers):
        assert step.rows >= 3 and (np.diff(step.row) >= 0).all()
        loads = np.bincount(step.row, step.length, minlength=step.rows)
        assert len(loads) == step.rows and loads.max() <= 64
        assert (step.pads >= 1).all() and (step.pads <= 3).all()


@settings(max_examples=20)
@given(st.lists(indexes(), min_size=1, max_size=3), st.integers(0, 60))
def test_a_step_is_the_same_planned_alone_or_after_others(sources, number) -> None:
    weights = [1.0 + i for i in range(len(sources))]
    through, alone = plan_of(sources, weights), plan_of(sources, weights)
    for earlier in range(number):
        through.step(earlier)
    one, other = through.step(number), alone.step(number)
    assert samples_of(through, [number]) == samples_of(alone, [number])
    assert all(np.array_equal(getattr(one, n), getattr(other, n)) for n in ("row", "time", "key"))
    assert len(alone._windows) == 1  # nothing else had to be planned


def test_a_stretch_that_packs_badly_gets_more_rows() -> None:
    """Half of the shards hold samples of which no two fit into a row."""
    rows = [(10, 5)] * 200 + [(40, 20)] * 200
    plan = plan_of([lengths_of(rows, [100] * 4)], [1.0], shuffle_shards=1, tail_pads=0)
    steps = [plan.step(i) for i in range(60)]
    assert {step.rows for step in steps} > {3}
    assert all(np.bincount(s.row, s.length).max() <= 64 for s in steps)


def test_another_seed_is_another_order(corpora) -> None:
    one, other = (open_data(make_recipe(corpora, seed=seed)).plan for seed in (0, 1))
    assert samples_of(one, range(6)) != samples_of(other, range(6))


def test_a_state_is_json_and_a_moved_corpus_goes_on(corpora, tmp_path) -> None:
    shutil.copytree(corpora, tmp_path / "moved")
    state = json.loads(json.dumps(open_data(make_recipe(corpora)).plan.state(17)))
    assert open_data(make_recipe(tmp_path / "moved")).plan.resume(state) == 17


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 3}, "seed was 0 and is 3"),
        ({"row_length": 600}, "row_length was 512 and is 600"),
        ({"rows_per_step": 8}, "rows_per_step was 4 and is 8"),
        ({"tail_pads": 4}, "tail_pads was 16 and is 4"),
        ({"evaluation": {"held_out": 0.25}}, "held_out was 0.0 and is 0.25"),
    ],
)
def test_resuming_another_recipe_is_refused_with_the_difference(corpora, change, named) -> None:
    state = open_data(make_recipe(corpora)).plan.state(5)
    with pytest.raises(PlanError, match=f"cannot resume: {named}"):
        open_data(make_recipe(corpora, **change)).plan.resume(state)


def test_resuming_on_other_data_or_weights_is_refused(corpora, tmp_path) -> None:
    recipe = make_recipe(corpora)
    state = open_data(recipe).plan.state(5)
    heavier = recipe.sources["coded"].model_copy(update={"weight": 3.0})
    other = recipe.model_copy(update={"sources": {**recipe.sources, "coded": heavier}})
    with pytest.raises(PlanError, match=r"weight of coded was 0\.33"):
        open_data(other).plan.resume(state)
    shutil.copytree(corpora, tmp_path / "c")
    shutil.rmtree(tmp_path / "c/heard")
    training_corpus(tmp_path / "c/heard", [40, 30, 50, 20], ["asr", "tts", "svqa"], seed=7)
    with pytest.raises(PlanError, match="source heard was"):
        open_data(make_recipe(tmp_path / "c")).plan.resume(state)


def test_held_out_samples_are_never_trained_on_and_do_not_depend_on_the_seed(corpora) -> None:
    made = [
        open_data(make_recipe(corpora, seed=s, evaluation={"held_out": 0.2, "samples": 9}))
        for s in (0, 1)
    ]
    kept = [
        [(s.source.tolist(), s.index.tolist(), s.key.tolist()) for s in d.evaluation] for d in made
    ]
    assert kept[0] == kept[1] and sum(len(rows) for _, rows, _ in kept[0]) == 18
    held = {(a, b) for sources, rows, _ in kept[0] for a, b in zip(sources, rows, strict=True)}
    trained = {(source, row) for source, _, row, _ in samples_of(made[0].plan, range(60))}
    assert trained and not trained & held


def test_samples_of_equal_tokens_are_held_out_together(tmp_path) -> None:
    for name in ("one", "twin"):
        training_corpus(tmp_path / name, [40], ["t2i", "text"])
    sources = {n: {"corpus": str(tmp_path / n)} for n in ("one", "twin")}
    data = open_data(
        make_recipe(
            tmp_path, sources=sources, evaluation=EvaluationRecipe(held_out=0.3).model_dump()
        )
    )
    one, twin = (np.sort(source.lengths.held_out) for source in data.sources)
    assert len(one) and np.array_equal(one, twin)


def test_a_corpus_can_be_for_evaluation_only(corpora, tmp_path) -> None:
    training_corpus(tmp_path, [5], ["asr"], seed=9)
    data = open_data(make_recipe(corpora, evaluation={"corpora": {"test": str(tmp_path)}}))
    assert [s.name for s in data.sources] == ["heard", "coded", "test"]
    assert sorted(row for step in data.evaluation for row in step.index.tolist()) == list(range(5))


@given(st.sampled_from(sorted(ANSWERS)), st.integers(0, 10**6), st.booleans())
def test_a_length_from_the_index_is_never_too_short(task, seed, features) -> None:
    sample = training_sample("k", task, np.random.default_rng(seed), features=features)
    numbers = {f"{name}_len": np.array([sample.stream_length(name)]) for name in _STREAMS}
    numbers["n_spans"] = np.array([len(sample.spans)])
    bound = int(LengthRule.of(TEMPLATE).bound(numbers)[0])
    exact = TEMPLATE.length(from_corpus("k", sample.spans))
    assert bound == exact if task in ("text", "t2i") else exact <= bound <= exact + 40


_STREAMS = ("text", "image256", "image512", "speech", "features")


def test_lengths_are_read_for_every_row_and_task(corpora) -> None:
    data = open_data(make_recipe(corpora))
    for source in data.sources:
        corpus = Corpus(source.storage.root)
        for row, sample in enumerate(corpus):
            exact = TEMPLATE.length(from_corpus(sample.key, sample.spans))
            assert exact <= source.lengths.length[row]
            assert source.lengths.supervised[row] == sample.supervised_length
            assert source.lengths.tasks[source.lengths.task[row]] == sample.record.task
        places = source.places(np.arange(len(corpus)))
        assert [p.key for p in places] == corpus.index.keys(np.arange(len(corpus)))


def test_the_report_says_what_the_steps_do(corpora) -> None:
    data = open_data(make_recipe(corpora, evaluation={"held_out": 0.1}))
    found = report(data, 36)
    drawn = samples_of(data.plan, range(found.steps))
    assert [s.samples for s in found.sources] == [
        sum(source == i for source, *_ in drawn) for i in range(2)
    ]
    assert [s.configured for s in found.sources] == [2 / 3, 1 / 3]
    assert all(abs(s.planned - s.configured) < 0.01 for s in found.sources)
    assert sum(t.samples for t in found.tasks) == pytest.approx(1)
    assert {t.name for t in found.tasks} == {"asr", "tts", "svqa", "t2i", "text", "s2i", "caption"}


def test_samples_longer_than_a_row_stop_the_run_or_are_counted(corpora) -> None:
    with pytest.raises(PlanError, match="samples do not fit into a row of 300; the longest, 's"):
        open_data(make_recipe(corpora, row_length=300))
    data = open_data(make_recipe(corpora, row_length=300, too_long="skip"))
    found = report(data, 4).sources[0]
    assert found.too_long > 0 and found.used == found.rows - found.too_long
    with pytest.raises(PlanError, match="none of its 140 samples"):
        open_data(make_recipe(corpora, row_length=20, tail_pads=4, too_long="skip"))


def test_bad_mixtures_are_refused_before_anything_is_read(corpora, tmp_path) -> None:
    zero = {"a": {"corpus": f"{corpora}/heard", "weight": 0.0}}
    with pytest.raises(OmniError, match="weights of the sources sum to 0"):
        open_data(make_recipe(corpora, sources=zero))
    with pytest.raises(CorpusError, match="there is no corpus here"):
        open_data(make_recipe(tmp_path))
    training_corpus(tmp_path, [0], ["asr"])
    with pytest.raises(PlanError, match="none of its 0 samples"):
        open_data(make_recipe(corpora, sources={"a": {"corpus": str(tmp_path)}}))
    with pytest.raises(PlanError, match="too short for 200 pads"):
        open_data(make_recipe(corpora, row_length=100, tail_pads=200))


@pytest.mark.parametrize("name", ["text", "image"])
def test_corpora_of_different_tokenizers_are_not_mixed(corpora, tmp_path, name) -> None:
    other = FINGERPRINTS | {name: "another"}
    training_corpus(tmp_path, [5], ["t2i"], fingerprints=other)
    sources = {"a": {"corpus": f"{corpora}/heard"}, "b": {"corpus": str(tmp_path)}}
    with pytest.raises(FingerprintError, match=f"another, but .* with {name} {FINGERPRINTS[name]}"):
        open_data(make_recipe(corpora, sources=sources))


def test_a_corpus_without_pictures_goes_with_any_picture_tokenizer(corpora, tmp_path) -> None:
    only_text = {"text": FINGERPRINTS["text"]}
    training_corpus(tmp_path, [5], ["text"], fingerprints=only_text)
    sources = {"a": {"corpus": f"{corpora}/heard"}, "b": {"corpus": str(tmp_path)}}
    assert len(open_data(make_recipe(corpora, sources=sources)).sources) == 2


def test_a_damaged_index_is_named(corpora, tmp_path: Path) -> None:
    shutil.copytree(corpora / "heard", tmp_path / "heard")
    index = tmp_path / "heard/index.parquet"
    data = bytearray(index.read_bytes())
    data[len(data) // 3] ^= 255
    index.write_bytes(data)
    with pytest.raises(CorpusError, match=r"index\.parquet: damaged"):
        open_data(make_recipe(corpora, sources={"a": {"corpus": str(tmp_path / "heard")}}))
