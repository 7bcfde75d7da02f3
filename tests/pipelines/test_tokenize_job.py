"""The main job on real pictures and sounds, with the demo tokenizers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs

from flaky_s3 import FlakyS3, flaky_s3
from jobs import contents
from media_jobs import UNUSABLE, picture, recipe, sound, write_source
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.manifest import Manifest
from omni_diffusion.corpus.rejects import read_rejects
from omni_diffusion.corpus.sample import Sample
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.corpus.verify import verify
from omni_diffusion.errors import JobError
from omni_diffusion.pipelines.claim import claim_output
from omni_diffusion.pipelines.engine import run_job
from omni_diffusion.pipelines.run_file import Run, last_run
from omni_diffusion.pipelines.tokenize import estimate, job_of
from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe
from omni_diffusion.tokenize.image.preprocess import load_picture, to_pixels
from omni_diffusion.tokenize.image.tokenizer import ImageTokenizer
from omni_diffusion.tokenize.speech.audio import load_audio
from omni_diffusion.tokenize.speech.tokenizer import SpeechTokenizer
from s3server import S3Server


def all_samples(output: Path) -> Iterator[Sample]:
    """Every sample of a corpus."""
    return iter(Corpus(str(output)))


def do(wanted: TokenizeRecipe, *, local: bool = True, **settings: Any) -> tuple[Manifest, Run]:
    """What the verb does."""
    return run_job(job_of(wanted), wanted.run, claim_output(wanted), local=local, **settings)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """24 good records."""
    folder = tmp_path_factory.mktemp("source") / "data"
    write_source(folder, 24)
    return str(folder)


@pytest.fixture(scope="module")
def corpus(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of the good records, made in one process."""
    output = tmp_path_factory.mktemp("corpus") / "out"
    do(recipe(source, str(output)))
    return output


def test_codes_are_the_tokenizers_own(corpus: Path) -> None:
    """What stands in a shard is what the tokenizers make of the file, and nothing else."""
    assert not verify(str(corpus)).problems
    images, speech = ImageTokenizer.from_pretrained("demo"), SpeechTokenizer.from_pretrained("demo")
    samples = {sample.record.task: sample for sample in all_samples(corpus)}
    assert set(samples) == {"caption", "t2i", "svqa"}
    sample = samples["svqa"]
    last = int(sample.record.images[0].removesuffix(".png"))
    pixels = to_pixels(load_picture(picture(last % 7)), 256)
    assert sample.streams["image256"].tolist() == images.encode(pixels[None])[0].tolist()
    waveforms = [load_audio(sound(last)), load_audio(sound((last + 1) % 3))]
    codes = np.concatenate([codes.numpy() for codes in speech.encode(waveforms)])
    assert sample.streams["speech"].tolist() == codes.tolist()
    assert sample.record.quality["duration_s"] == pytest.approx(1.2)
    assert [int(height) for height in sample.spans["height"]] == [0, 0, 16, 0, 0]


def test_a_cluster_makes_the_same_bytes(
    corpus: Path, source: str, ray_address: str, tmp_path: Path
) -> None:
    """The command is the same on a laptop and on a cluster, and so is the corpus."""
    ray = {"address": ray_address, "workers": 2}
    do(recipe(source, str(tmp_path / "out"), run={"ray": ray}), local=False)
    assert contents(tmp_path / "out") == contents(corpus)


def test_pictures_are_encoded_at_the_size_of_their_role_and_no_other(
    source: str, tmp_path: Path
) -> None:
    """A picture in a question takes 1,024 codes, in an answer 256: never both for nothing."""
    sizes = {"question": 512, "answer": 256}
    do(recipe(source, str(tmp_path), pictures=sizes))
    streams = {s.record.task: set(s.streams) for s in all_samples(tmp_path)}
    assert streams["caption"] == {"text", "image512"}
    assert streams["t2i"] == {"text", "image256"}


def test_a_file_is_encoded_once_for_all_runs(source: str, corpus: Path, tmp_path: Path) -> None:
    """24 records show 7 pictures; another job on the same files encodes none of them again."""
    cache = str(tmp_path / "cache")
    counts = []
    for name in ("first", "second"):
        wanted = recipe(source, str(tmp_path / name), cache=cache)
        worker = job_of(wanted).worker()
        _run_with(wanted, worker)
        counts.append(worker.counts())
        assert contents(tmp_path / name) == contents(corpus)
    assert counts[0]["image_256_encoded"] == 7
    assert counts[1]["image_256_encoded"] == counts[1]["speech_encoded"] == 0
    assert counts[1]["image_256_reused"] == 24


def _run_with(wanted: TokenizeRecipe, worker: Any) -> None:
    """Run a job whose worker can be asked afterwards."""

    class Job:
        name, output = "tokenize", wanted.output

        def source(self) -> Any:
            return job_of(wanted).source()

        def worker(self) -> Any:
            return worker

    run_job(Job(), wanted.run, claim_output(wanted), local=True)


def test_a_third_of_bad_records_is_accounted_for(tmp_path: Path) -> None:
    """Broken lines, records, pictures, sounds: each is a reject with its reason, none is lost."""
    write_source(tmp_path / "data", 66, unusable_every=3)
    wanted = recipe(str(tmp_path / "data"), str(tmp_path / "out"), run={"reject_share": 0.5})
    manifest, run = do(wanted)
    assert (manifest.rows, manifest.rejects) == (44, 22)
    storage = Storage(tmp_path / "out")
    rejects = [r for number in range(manifest.shards) for r in read_rejects(storage, number)]
    assert all(reject.reason and reject.detail for reject in rejects)
    assert sum(run.reasons.values()) == 22
    for name in UNUSABLE:
        assert sum(name in reject.detail for reject in rejects) == 2, name
    assert not verify(wanted.output).problems


def test_mended_media_are_taken_in_without_encoding_the_rest_again(tmp_path: Path) -> None:
    """`--retry-rejects` after the missing files were found: as if they had never been missing."""
    write_source(tmp_path / "data", 20)
    lost = (tmp_path / "data/4.png").read_bytes()
    (tmp_path / "data/4.png").unlink()
    wanted = recipe(str(tmp_path / "data"), str(tmp_path / "out"))
    manifest, _ = do(wanted)
    assert manifest.rejects == 1
    (tmp_path / "data/4.png").write_bytes(lost)
    manifest, _ = do(wanted, retrying_rejects=True)
    assert manifest.rejects == 0
    do(recipe(str(tmp_path / "data"), str(tmp_path / "whole")))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_another_recipe_in_the_same_folder_is_refused_with_the_difference(
    source: str, tmp_path: Path
) -> None:
    """Only what decides the bytes counts: the number of workers may change."""
    do(recipe(source, str(tmp_path)))
    claim_output(recipe(source, str(tmp_path), run={"ray": {"workers": 7}}))
    with pytest.raises(JobError, match=r"-  question: 256\n.*\+  question: 512"):
        claim_output(recipe(source, str(tmp_path), pictures={"question": 512}))


def test_the_demo_tokenizers_are_found_beside_a_folder_of_that_name(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make demo` leaves a folder `demo` just where the next command is typed."""
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    wanted = recipe(source, "out")
    assert job_of(wanted).recipe.tokenizers == wanted.tokenizers


def test_an_estimate_writes_nothing(source: str, tmp_path: Path) -> None:
    """`--dry-run` knows counts and rates before anything is spent."""
    found = estimate(recipe(source, str(tmp_path / "out")))
    assert (found.partitions, found.records) == (3, 24)
    assert found.probed >= 4  # as many as a few seconds allow
    assert found.seconds_per_record
    assert found.output_bytes
    assert not (tmp_path / "out").exists()


def test_an_object_store_that_fails_now_and_then_costs_only_time(
    source: str, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, 429, broken connections at every tenth request: the corpus on it is the same."""
    with flaky_s3(seed=3, rate=0.1) as store:
        store.make_bucket("data")
        store.make_bucket("out")
        _use(store.backend, monkeypatch)
        _upload(Path(source), Storage("s3://data/source"))
        _use(store, monkeypatch)
        # As a user's client does; the other tests of S3 want to see every failure.
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "6")
        do(recipe("s3://data/source", "s3://out/corpus", run={"tries": 30}))
        assert len(store.spoilt) > 5
        ours = contents("s3://out/corpus")
    plain = contents(corpus)
    assert ours.keys() == plain.keys()
    shards = [name for name in plain if name.startswith(("shards/", "index"))]
    assert all(ours[name] == plain[name] for name in shards)


def _use(store: FlakyS3 | S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process's S3 client talk to a store; s3fs keeps clients by their arguments."""
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


def _upload(folder: Path, storage: Storage) -> None:
    for path in sorted(folder.iterdir()):
        storage.publish_bytes(path.read_bytes(), path.name, replace=True)


def test_a_source_that_vanishes_stops_the_job_with_the_cause(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the object; what was committed stays and the job can go on."""
    with flaky_s3() as store:
        _use(store, monkeypatch)
        store.make_bucket("data")
        _upload(Path(source), Storage("s3://data/source"))
        wanted = recipe("s3://data/source", str(tmp_path), run={"tries": 2})

        def vanish(run: Run) -> None:
            if run.partitions["done_now"] == 1:
                Storage("s3://data/source").remove("data.jsonl")

        with pytest.raises(JobError, match=r"data\.jsonl"):
            do(wanted, on_tick=vanish)
        assert last_run(Storage(tmp_path)).partitions["done"] == 1  # type: ignore[union-attr]
