"""What synthesis costs: the whole job against its engine alone, and against its own cache.

Written records (questions and answers of easy-vqa, descriptions of OpenMoji drawings) lie in tars
with their pictures. The job reads them, applies the rules, chooses voices, speaks with SVOX Pico,
measures and judges every sound, packs it as FLAC and commits shards, index and manifest; in one
process, so that CPU seconds can be compared.

    pico_utterances_per_s_per_core  different utterances of the first run, by its CPU seconds
    overhead_ratio         CPU seconds of the first run (nothing cached) divided by those of a loop
                           that calls the engine with the very same utterances and drops the
                           sounds; medians of interleaved pairs
    overhead_over_binding  the same against Pico's binding without our engine, whose sounds are not
                           repeatable
    rerun_speedup          CPU seconds of rules, voices, engine, gates and records of all batches in
                           the first run, divided by those in a second one, into another output,
                           with a new worker and the first one's cache: nothing is spoken
    threshold_speedup      the same after a threshold of the gates has moved
    job_rerun_speedup      CPU seconds of the whole first job divided by those of the whole second
                           one, which reads all pictures and writes all shards again
    rules_us               microseconds that the rules take for a text
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import typer

# This folder holds a module that is named as the library `tokenizers` is.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.results import tell  # noqa: E402

PER_TAR = 100


def write_source(folder: Path, questions: int, drawings: int) -> None:
    """Written records with their pictures, in tars of our own layout."""
    from omni_diffusion.corpus import tar
    from omni_diffusion.corpus.media_record import encode_media
    from omni_diffusion.pipelines import demo_records

    folder.mkdir()
    items = [
        *demo_records.questions(range(questions), conversations=True),
        *demo_records.drawings(range(drawings), ["t2i"]),
    ]
    for start in range(0, len(items), PER_TAR):
        part = items[start : start + PER_TAR]
        data = b"".join([*map(encode_media, part), tar.END])
        (folder / f"{start // PER_TAR:05d}.tar").write_bytes(data)


class Job:
    """The synthesis job with a worker that can be asked afterwards."""

    name = "synthesize"

    def __init__(self, source: Path, output: Path, cache: Path, **settings: Any) -> None:
        from omni_diffusion.pipelines.synthesize import job_of
        from omni_diffusion.pipelines.synthesize_recipe import SynthesizeRecipe

        tars = {"kind": "media_tars", "path": f"{source}/*.tar", "source": "bench"}
        value = {"source": tars, "task": "by_record", "output": str(output), "cache": str(cache)}
        self.recipe = SynthesizeRecipe.model_validate_json(json.dumps(value | settings))
        self._job = job_of(self.recipe)
        self.output = str(output)
        self.made: Any = None
        self.produce_s = 0.0

    def source(self) -> Any:
        return self._job.source()

    def worker(self) -> Any:
        self.made = self._job.worker()
        produce = self.made._producer.produce

        def timed(records: Any) -> Any:
            began = time.thread_time()
            made = produce(records)
            self.produce_s += time.thread_time() - began
            return made

        self.made._producer.produce = timed
        return self.made

    def run(self) -> float:
        """CPU seconds of the whole job."""
        from omni_diffusion.pipelines.claim import claim_output
        from omni_diffusion.pipelines.engine import run_job

        began = time.process_time()
        manifest, _ = run_job(self, self.recipe.run, claim_output(self.recipe), local=True)
        spent = time.process_time() - began
        assert manifest.rows + manifest.rejects
        return spent


def utterances_of(output: Path) -> list[tuple[str, str, float]]:
    """Everything that was said in a corpus, each once."""
    from omni_diffusion.corpus.media_corpus import MediaCorpus

    corpus = MediaCorpus(output)
    found: dict[tuple[str, str, float], None] = {}
    for row in range(len(corpus)):
        for u in corpus.record(row).record.extra["sdvi"]["utterances"]:
            found[u["text_spoken"], u["voice"], u["rate"]] = None
    return list(found)


def engine_loop(utterances: Sequence[tuple[str, str, float]]) -> float:
    """CPU seconds of the engine alone."""
    from omni_diffusion.sdvi.engines import PicoRecipe, open_engine

    engine = open_engine(PicoRecipe())
    began = time.process_time()
    for text, voice, rate in utterances:
        engine.synthesize(text, voice, rate)
    return time.process_time() - began


def bare_loop(utterances: Sequence[tuple[str, str, float]]) -> float:
    """CPU seconds of Pico's binding alone."""
    from py_nanotts import NanoTTS

    speak = NanoTTS().speak
    parts = [(t, v.partition("@")[0], float(v.partition("@")[2]), r) for t, v, r in utterances]
    began = time.process_time()
    for text, accent, pitch, rate in parts:
        speak(text, voice=accent, speed=rate, pitch=pitch, volume=0.4)
    return time.process_time() - began


def rules_us(output: Path) -> float:
    """Microseconds for a text."""
    from omni_diffusion.corpus.media_corpus import MediaCorpus
    from omni_diffusion.sdvi.rules import RulesRecipe, speakable

    corpus = MediaCorpus(output)
    texts = [
        u["text_raw"]
        for row in range(min(len(corpus), 200))
        for u in corpus.record(row).record.extra["sdvi"]["utterances"]
    ]
    began = time.process_time()
    for text in texts:
        speakable(text, "answer", RulesRecipe())
    return 1e6 * (time.process_time() - began) / len(texts)


def benchmark(questions: int, drawings: int, repeats: int) -> dict[str, Any]:
    """Interleaved pairs; medians."""
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_source(folder / "few", 4, 4)
        Job(folder / "few", folder / "warm", folder / "warm-cache").run()  # imports
        write_source(folder / "source", questions, drawings)
        for i in range(repeats):
            runs.append(_runs(folder, i))
        rules = rules_us(folder / "first0")
    count = int(runs[0]["utterances"])

    def middle(one: str, other: str = "") -> float:
        return median(run[one] / (run[other] if other else 1) for run in runs)

    return {
        "records": questions + drawings,
        "utterances": count,
        "repeats": repeats,
        "pico_utterances_per_s_per_core": round(count / middle("first"), 1),
        "overhead_ratio": round(middle("first", "engine"), 3),
        "overhead_ratios": [round(run["first"] / run["engine"], 3) for run in runs],
        "overhead_over_binding": round(middle("first", "binding"), 3),
        "rerun_speedup": round(middle("first_produce", "again_produce"), 1),
        "threshold_speedup": round(middle("first_produce", "moved_produce"), 1),
        "job_rerun_speedup": round(middle("first", "again"), 1),
        "rerun_ms_per_record": round(1e3 * middle("again_produce") / (questions + drawings), 3),
        "job_rerun_ms_per_record": round(1e3 * middle("again") / (questions + drawings), 3),
        "rules_us": round(rules, 1),
    }


def _runs(folder: Path, number: int) -> dict[str, float]:
    """CPU seconds of one round: everything spoken, twice from the cache, and the engine alone."""
    source, cache = folder / "source", folder / f"cache{number}"
    gates = {"end_db": -31.0, "attempts": 1}
    jobs = {
        "first": Job(source, folder / f"first{number}", cache),
        "again": Job(source, folder / f"again{number}", cache),
        "moved": Job(source, folder / f"moved{number}", cache, gates=gates),
    }
    spent: dict[str, float] = {}
    for name, job in jobs.items():
        spent[name] = job.run()
        spent[f"{name}_produce"] = job.produce_s
    utterances = utterances_of(folder / f"first{number}")
    made = [job.made.cache.synthesized for job in jobs.values()]
    assert made == [len(utterances), 0, 0], "spoken twice, or not in the corpus"
    spent["engine"], spent["binding"] = engine_loop(utterances), bare_loop(utterances)
    return spent | {"utterances": len(utterances)}


def main(
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    short: bool = typer.Option(False, "--short", help="Half a minute: shows that all of it runs."),
    keep: bool = typer.Option(False, "--keep", help="Write benchmarks/results/sdvi.json."),
) -> None:
    """CPU of the synthesis job against its engine alone, and against its own cache."""
    questions, drawings, repeats = (100, 60, 1) if short else (200, 100, 3)
    figures = benchmark(questions, drawings, repeats)
    tell("sdvi", figures, keep=keep and not short, as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
