"""The synthesis job: exactly once, the same bytes everywhere, nothing spoken twice, none lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from jobs import contents
from media_jobs import picture
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.index import Index
from omni_diffusion.corpus.manifest import Manifest
from omni_diffusion.corpus.media_corpus import MediaCorpus
from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.rejects import Reject, read_rejects
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.corpus.verify import verify
from omni_diffusion.errors import JobError, RecipeError
from omni_diffusion.pipelines.claim import claim_output
from omni_diffusion.pipelines.engine import run_job
from omni_diffusion.pipelines.run_file import Run
from omni_diffusion.pipelines.spoken_report import spoken_report
from omni_diffusion.pipelines.synthesize import estimate, job_of
from omni_diffusion.pipelines.synthesize_recipe import SynthesizeRecipe
from omni_diffusion.pipelines.tokenize import job_of as tokenize_job
from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe
from omni_diffusion.recipe import load_recipe
from table4 import TABLE4

pytest.importorskip("py_nanotts")
RECIPES = Path(__file__).parents[2] / "sdvi"
SMALL = ["source.questions=6", "source.drawings=4", "source.captions=2"]


def recipe(output: Path | str, *overrides: str) -> SynthesizeRecipe:
    """The demo, smaller: three shards of questions, drawings, captions."""
    changes = [*SMALL, f"output={output}", "cache=null", *overrides]
    return load_recipe(RECIPES / "demo.yaml", SynthesizeRecipe, changes)


def do(wanted: SynthesizeRecipe, *, local: bool = True, **settings: Any) -> tuple[Manifest, Run]:
    """What the verb does."""
    return run_job(job_of(wanted), wanted.run, claim_output(wanted), local=local, **settings)


def records(output: Path | str) -> Iterator[MediaRecord]:
    """Everything in a media corpus."""
    corpus = MediaCorpus(output)
    return (corpus.record(row) for row in range(len(corpus)))


def rejects(output: Path | str, shards: int) -> list[Reject]:
    """Everything that was refused."""
    return [r for number in range(shards) for r in read_rejects(Storage(output), number)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small demo, made in one process."""
    output = tmp_path_factory.mktemp("spoken") / "out"
    do(recipe(output))
    return output


def test_every_record_is_spoken_in_the_published_form(corpus: Path) -> None:
    found = list(records(corpus))
    assert Counter(e.record.task for e in found) == {"svqa": 6, "s2i": 4, "spoken_caption": 2}
    for entry in found:
        assert all(data[:4] == b"fLaC" for data in entry.audios)
        assert len(entry.images) == 1
        assert entry.record.license in ("MIT", "CC-BY-SA-4.0")
        assert entry.record.provenance["voice"]
    drawn = next(e.record for e in found if e.record.task == "s2i")
    written = drawn.extra["sdvi"]["utterances"][0]["text_raw"]
    assert "text description" not in written, "the written request is not a part of the caption"
    assert not verify(corpus, workers=1).problems


def test_a_cluster_makes_the_same_bytes(corpus: Path, ray_address: str, tmp_path: Path) -> None:
    """However many workers there are, and whatever each of them has spoken before."""
    ray = [f"run.ray.address={ray_address}", "run.ray.workers=2"]
    do(recipe(tmp_path / "out", *ray), local=False)
    assert contents(tmp_path / "out") == contents(corpus)


def test_a_run_that_was_broken_off_ends_as_if_it_had_not_been(corpus: Path, tmp_path: Path) -> None:
    def stop(run: Run) -> None:
        if run.partitions["done_now"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do(recipe(tmp_path / "out"), on_tick=stop)
    _, run = do(recipe(tmp_path / "out"))
    assert run.partitions["done_now"] == 2
    assert contents(tmp_path / "out") == contents(corpus)


def test_nothing_is_spoken_twice(corpus: Path, tmp_path: Path) -> None:
    """Neither by a rerun nor because a threshold has moved."""
    cache = f"cache={tmp_path / 'cache'}"
    do(recipe(tmp_path / "first", cache))
    assert contents(tmp_path / "first") == contents(corpus)
    strict = "gates={attempts: 1, duration_s: [0.3, 2.0]}"
    for name, changes in (("again", []), ("strict", [strict])):
        wanted = recipe(tmp_path / name, cache, *changes)
        worker = job_of(wanted).worker()
        manifest, _ = run_job(_WithWorker(wanted, worker), wanted.run, "digest", local=True)
        assert worker.cache.synthesized == 0
        assert manifest.rows + manifest.rejects == 12
        assert bool(manifest.rejects) == bool(changes)
    values = [json.loads(r.detail)["values"] for r in rejects(tmp_path / "strict", 3)]
    assert all(v["duration_s"] > 2 for v in values)


class _WithWorker:
    """A job whose worker can be asked afterwards."""

    name = "synthesize"

    def __init__(self, wanted: SynthesizeRecipe, worker: Any) -> None:
        self._job, self._worker, self.output = job_of(wanted), worker, wanted.output

    def source(self) -> Any:
        return self._job.source()

    def worker(self) -> Any:
        return self._worker


def test_what_was_measured_reaches_the_token_corpus(corpus: Path, tmp_path: Path) -> None:
    """The columns that the audit draws its curves from survive tokenization."""
    changes = [f"source.path={corpus}/shards/*.tar", f"output={tmp_path}"]
    wanted = load_recipe(RECIPES.parent / "tokenize/sdvi-demo.yaml", TokenizeRecipe, changes)
    manifest, _ = run_job(tokenize_job(wanted), wanted.run, claim_output(wanted), local=True)
    assert (manifest.rows, manifest.rejects) == (12, 0)
    assert not verify(tmp_path, workers=1).problems
    media, tokens = (Index(Storage(root)) for root in (corpus, tmp_path))
    for name in (
        *("voice", "tts_engine", "voice_rate", "attempts", "duration_s", "words_per_s"),
        *("rms_dbfs", "peak", "silence_s", "end_silence_s", "clipped_share", "end_db", "noise_db"),
        *("task", "source", "license", "origin"),
    ):
        assert None not in tokens.column(name).to_pylist(), name
        assert tokens.column(name).equals(media.column(name)), name
    samples = {sample.record.task: sample for sample in Corpus(str(tmp_path))}
    assert set(samples["svqa"].streams) == set(samples["s2i"].streams)
    assert samples["svqa"].stream_length("speech") > 10


BAD = {
    "empty": ("", "R0.empty"),
    "long": ("word " * 10_000, "R0.size"),
    "emoji": ("\U0001f600\U0001f408", "R0.empty"),
    "control": ("What is\x07 this?", "R0.characters"),
    "right to left": ("ما هذا في الصورة", "R4.language"),
    "direction marks": ("\u202eWhat is this\u202c?", None),
    "ssml": ("<speak><break time='9s'/>What is this?</speak>", "R1.code"),
    "closing tag": ("What is this?</voice><voice name='x'>", "R1.code"),
    "option letter": ("What is it?", "R5.choice"),
    "code": ("What does ```print(1)``` do?", "R1.code"),
    "mathematics": ("Solve for x in the picture.", "R2.math"),
    "missing picture": ("What is this?", "missing media"),
    "damaged picture": ("What is this?", "R0.picture"),
    "no placeholder": ("What is this?", "R0.form"),
    "good": ("What is this?", None),
}
"""Name of a record to its question and the id that must stand in the rejects."""


def write_bad(folder: Path) -> None:
    """One conversation each, with the pictures that exist."""
    folder.mkdir()
    (folder / "good.png").write_bytes(picture(1))
    (folder / "damaged.png").write_bytes(picture(2)[:90])
    lines = []
    for name, (question, _) in BAD.items():
        image = {"missing picture": "none.png", "damaged picture": "damaged.png"}.get(name)
        place = "" if name == "no placeholder" else "\n<|image|>"
        answer = "B" if name == "option letter" else "It is a cat."
        answer += "\n<|image|>" * (not place)
        messages = [
            {"role": "user", "content": question + place},
            {"role": "assistant", "content": answer},
        ]
        lines.append(json.dumps({"messages": messages, "images": [image or "good.png"]}))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")


def from_jsonl(folder: Path, output: Path, *overrides: str) -> SynthesizeRecipe:
    """A recipe that reads conversations of a folder."""
    source = {
        "kind": "conversations",
        "path": f"{folder}/data.jsonl",
        "media_root": str(folder),
        "source": "test",
        "records_per_shard": 10,
    }
    path = output.parent / f"{output.name}.yaml"
    path.write_text(json.dumps({"source": source, "task": "spoken_vqa", "output": str(output)}))
    return load_recipe(path, SynthesizeRecipe, overrides)


def test_bad_texts_and_pictures_are_rejects_with_the_id_of_a_rule(tmp_path: Path) -> None:
    write_bad(tmp_path / "data")
    manifest, run = do(from_jsonl(tmp_path / "data", tmp_path / "out"))
    assert manifest.rows + manifest.rejects == len(BAD)
    assert sum(run.reasons.values()) == manifest.rejects
    reasons = {r.key: r.reason for r in rejects(tmp_path / "out", manifest.shards)}
    found = dict(zip(BAD, _in_order(tmp_path / "out", reasons), strict=True))
    assert found == {name: expected for name, (_, expected) in BAD.items()}
    assert not verify(tmp_path / "out", workers=1).problems


def _in_order(output: Path, reasons: dict[str, str]) -> list[str | None]:
    """The reason of each record in the order of the source, None for those that were spoken."""
    keys = [*reasons, *(entry.key for entry in records(output))]
    return [reasons.get(key) for key in sorted(keys)]


def test_a_picture_that_was_found_is_taken_in_without_speaking_the_rest(tmp_path: Path) -> None:
    write_bad(tmp_path / "data")
    wanted = from_jsonl(tmp_path / "data", tmp_path / "out", f"cache={tmp_path / 'cache'}")
    before, _ = do(wanted)
    (tmp_path / "data/none.png").write_bytes(picture(3))
    after, _ = do(wanted, retrying_rejects=True)
    assert after.rejects == before.rejects - 1
    do(from_jsonl(tmp_path / "data", tmp_path / "whole"))
    ours, whole = contents(tmp_path / "out"), contents(tmp_path / "whole")
    assert ours.keys() == whole.keys()
    assert all(ours[name] == whole[name] for name in ours if name != "recipe.yaml")


def test_how_an_engine_is_asked_may_change_but_not_what_is_made(
    corpus: Path, tmp_path: Path
) -> None:
    """Fewer requests at a time is what a user tries who was refused; the output must go on."""
    edge = [f"engine={{kind: edge, concurrency: {n}}}" for n in (8, 2)]
    assert len({recipe(tmp_path, change).content().digest() for change in edge}) == 1
    with pytest.raises(JobError, match="spread"):
        claim_output(recipe(corpus, "voices.rate_spread=0.2"))


def test_an_estimate_writes_nothing(tmp_path: Path) -> None:
    found = estimate(recipe(tmp_path / "out", f"cache={tmp_path / 'cache'}"))
    assert (found.partitions, found.records) == (3, 12)
    assert found.probed >= 1  # as many as a few seconds allow
    assert found.output_bytes
    assert not list(tmp_path.iterdir())


def test_the_balance_of_voices_is_reported(corpus: Path) -> None:
    report = spoken_report(str(corpus))
    assert report.records == 12
    assert report.utterances == sum(len(e.audios) for e in records(corpus))
    assert report.rules["T4.sentence"]
    assert all(gate.passed == gate.looked_at for gate in report.gates)
    assert report.held_out
    spoken = {v.voice for v in report.voices if v.records}
    assert not spoken & set(report.held_out), "a held-out voice has spoken"
    assert [v.part for v in report.voices].count("assistant") == 1
    assert sum(report.rate.values()) == sum(report.accent.values()) == 12
    assert all(90 <= int(rate) <= 110 for rate in report.rate)
    assert report.attempts == {"1": 12}
    json.dumps(report.to_dict())
    assert asdict(report)["least_share"] < 1


def test_voices_that_are_not_there_stop_the_job_at_once(tmp_path: Path) -> None:
    wanted = recipe(tmp_path, "voices.assistant=nobody")
    with pytest.raises(JobError, match="nobody"):
        do(wanted)
    with pytest.raises(RecipeError, match="nobody"):
        job_of(wanted).worker()


@pytest.mark.parametrize(
    ("name", "data", "task"),
    [("spoken-vqa", "llava-onevision", "svqa"), ("speech-to-image", "journeydb-blip3o", "s2i")],
)
def test_a_recipe_speaks_its_data_set(tmp_path: Path, name: str, data: str, task: str) -> None:
    """The published columns, with Pico in the place of Kokoro and nobody listening."""
    overrides = TABLE4[data].build(tmp_path / "data")
    changes = ["engine={kind: pico}", "recogniser=null", "cache=null", f"output={tmp_path / 'out'}"]
    changes += [
        "rules={length: {caption_words: [1, 60]}}"
    ]  # the tiny data set's captions have two words
    wanted = load_recipe(RECIPES / f"{name}.yaml", SynthesizeRecipe, [*overrides, *changes])
    manifest, _ = do(wanted)
    assert manifest.rows, rejects(tmp_path / "out", manifest.shards)
    assert {entry.record.task for entry in records(tmp_path / "out")} == {task}


def test_the_recipes_are_listed_and_name_what_they_need() -> None:
    readme = (RECIPES / "README.md").read_text()
    for path in sorted(RECIPES.glob("*.yaml")):
        loaded = load_recipe(path, SynthesizeRecipe)
        assert f"`{path.name}`" in readme
        assert loaded.cache
        assert max(map(len, path.read_text().splitlines())) <= 100
