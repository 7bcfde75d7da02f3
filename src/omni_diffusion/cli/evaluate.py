"""`omni-diffusion evaluate`: a model's scores on published benchmarks, or on a token corpus."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from omni_diffusion.cli.generation_options import StudioOptions, Task, with_studio
from omni_diffusion.cli.progress import progress

if TYPE_CHECKING:
    from omni_diffusion.generation.evaluation.items import Item
    from omni_diffusion.generation.evaluation.suites import Suite
    from omni_diffusion.generation.studio import Reply, Studio


@with_studio
def command(
    said: StudioOptions,
    suite: Literal["asr", "tts", "vqa", "t2i", "s2i", "corpus"] = typer.Option(
        help="What is measured."
    ),
    data: Path = typer.Option(
        help="asr: LibriSpeech. tts: LibriTTS. vqa: POPE's or SEED's file, or MME's folder. "
        "t2i: captions_*.json of MSCOCO. s2i: JSONL with audio, text, image. corpus: a corpus."
    ),
    benchmark: Literal["pope", "mme", "seed2plus"] = typer.Option("pope", help="Of suite vqa."),
    images: Path | None = typer.Option(None, help="Folder of the pictures (pope, seed2plus, t2i)."),
    clip: str | None = typer.Option(
        None, help="CLIP for t2i and s2i, e.g. openai/clip-vit-large-patch14, or a folder."
    ),
    whisper: str | None = typer.Option(
        None, help="For tts: folder of a Whisper model for faster-whisper, or a name it knows."
    ),
    steps: str | None = typer.Option(
        None, help="Numbers of steps to compare, e.g. 256,50,10; else the recipe's."
    ),
    limit: int | None = typer.Option(None, min=1, help="Only the first N items."),
    task: Task | None = typer.Option(None, help="Of suite corpus: only this task."),
    keys: Path | None = typer.Option(None, help="Of suite corpus: only these keys, one a line."),
    held_out: Path | None = typer.Option(
        None, help="Of suite corpus: only the evaluation stream of this training recipe."
    ),
    out: Path = typer.Option(Path("evaluation"), "-o", "--out", help="Folder for the results."),
    batch: int = typer.Option(8, min=1, help="Answers that are denoised together."),
    as_json: bool = typer.Option(False, "--json", help="Print results.json."),
) -> None:
    """Score a model as papers do, and keep everything that is needed to repeat it.

    Writes results.json, answers.jsonl, table.md; for several numbers of steps quality.png, and for
    pictures of a corpus a contact sheet, pictures.png.
    """
    from omni_diffusion.errors import OmniError
    from omni_diffusion.generation.evaluation import report
    from omni_diffusion.generation.evaluation.suites import run_steps

    numbers = _steps(steps)
    if suite != "corpus" and (task or keys or held_out):
        raise OmniError("--task, --keys and --held-out choose samples of --suite corpus")
    if suite == "corpus" and steps is not None:
        raise OmniError("--steps compares benchmarks; for a corpus say TASK.sampler.steps=N")
    if suite == "corpus":
        items, wanted = [], _chosen_keys(data, keys, held_out)
    else:
        items, wanted = _items(suite, benchmark, data, images, limit), None
    studio = said.open()
    out.mkdir(parents=True, exist_ok=True)
    name = benchmark if suite == "vqa" else suite
    facts: dict[str, Any] = {"suite": suite, "benchmark": name, "path": str(data), "limit": limit}
    with (out / "answers.jsonl").open("w") as answers, progress("evaluate", "answers") as update:

        def put(row: dict[str, Any]) -> None:
            answers.write(json.dumps(row, ensure_ascii=False) + "\n")

        if suite == "corpus":
            facts |= {
                "task": task,
                "keys": keys and str(keys),
                "held_out": held_out and str(held_out),
            }
            found = _on_corpus(studio, data, task, wanted, limit, batch, put, update, facts, out)
        else:
            scored = _suite(suite, benchmark, studio, clip, whisper)
            facts |= {"items": len(items), "items_sha256": report.digest_items(items)}
            rows = run_steps(
                studio,
                items,
                scored,
                numbers,
                batch=batch,
                on_answer=lambda number, answered: put(
                    {"key": answered.item.ask.key, "steps": number, **scored.row(answered)}
                ),
                on_progress=update,
            )
            found = {"by_steps": rows}
    weights = said.weights_folder()
    results = report.describe(studio, said.checkpoint, weights, facts) | {"batch": batch} | found
    shown = report.write(out, results, name)
    typer.echo(json.dumps(results, indent=2, ensure_ascii=False) if as_json else shown)
    if studio.kit.demo and not as_json:
        typer.echo("\nDemo tokenizers: these figures say that everything works, no more.")


def _steps(text: str | None) -> Sequence[int | None]:
    from omni_diffusion.errors import OmniError

    if text is None:
        return [None]
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise OmniError(f"--steps {text!r}: expected whole numbers such as 256,50,10")
    return [int(part) for part in parts]


def _items(
    suite: str, benchmark: str, data: Path, images: Path | None, limit: int | None
) -> list[Item]:
    from omni_diffusion.generation.evaluation import layouts

    if suite == "asr":
        found = layouts.librispeech(data)
    elif suite == "tts":
        found = layouts.libritts(data)
    elif suite == "s2i":
        found = layouts.spoken_pictures(data)
    elif suite == "vqa" and benchmark == "mme":
        found = layouts.mme(data)
    else:
        folder = data.parent if images is None else images
        readers = {"pope": layouts.pope, "seed2plus": layouts.seed2plus}
        found = (readers[benchmark] if suite == "vqa" else layouts.coco)(data, folder)
    return layouts.chosen(found, limit, str(data))


def _suite(
    suite: str, benchmark: str, studio: Studio, clip: str | None, whisper: str | None
) -> Suite:
    from omni_diffusion.errors import OmniError
    from omni_diffusion.generation.evaluation import suites
    from omni_diffusion.generation.evaluation.clip import Clip

    if suite == "asr":
        return suites.AsrSuite()
    if suite == "tts":
        from omni_diffusion.sdvi.recognisers import FasterWhisper, RecogniserRecipe

        if whisper is None:
            raise OmniError("tts needs --whisper: the paper's scores are Whisper large-v3's")
        return suites.TtsSuite(FasterWhisper(RecogniserRecipe(model=whisper)))
    if suite == "vqa":
        kinds: dict[str, Callable[[], Suite]] = {
            "pope": suites.PopeSuite,
            "mme": suites.MmeSuite,
            "seed2plus": suites.SeedSuite,
        }
        return kinds[benchmark]()
    if clip is None and suite == "t2i":
        raise OmniError("t2i needs --clip: openai/clip-vit-large-patch14, or a folder with a CLIP")
    scorer = None if clip is None else Clip(clip)
    return suites.PictureSuite(scorer, studio if suite == "s2i" else None)


def _on_corpus(
    studio: Studio,
    data: Path,
    task: Task | None,
    wanted: Sequence[str] | None,
    limit: int | None,
    batch: int,
    put: Callable[[dict[str, Any]], None],
    update: Callable[[int, int], None],
    facts: dict[str, Any],
    out: Path,
) -> dict[str, Any]:
    from omni_diffusion.corpus.corpus import Corpus
    from omni_diffusion.generation.evaluation import corpus as against
    from omni_diffusion.generation.evaluation.sheet import ContactSheet

    def seen(question: against.Question, reply: Reply) -> None:
        put(against.row(question, reply))
        sheet.add(question, reply)

    corpus, sheet = Corpus(data), ContactSheet(studio.kit)
    asked = list(against.questions(studio, corpus, task=task, keys=wanted, limit=limit))
    facts |= {"items": len(asked), "corpus_digest": corpus.manifest.digest}
    rows = against.run(studio, asked, batch=batch, on_answer=seen, on_progress=update)
    sheet.write(out / "pictures.png")
    return {"by_steps": rows}


def _chosen_keys(data: Path, file: Path | None, held_out: Path | None) -> list[str] | None:
    from omni_diffusion.errors import OmniError

    if held_out is not None:
        from omni_diffusion.cli.held_out import keys_of

        if file is not None:
            raise OmniError("--keys and --held-out both say what is asked: give one")
        return keys_of(held_out, data)
    if file is None:
        return None
    try:
        return file.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise OmniError(f"{file}: cannot be read: {error}") from None
