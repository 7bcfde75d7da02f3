"""`omni-diffusion generate`: answers of a trained model as pictures, sounds and texts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import typer

from omni_diffusion.cli.generation_options import StudioOptions, Task, with_studio
from omni_diffusion.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omni_diffusion.generation.ask import Ask, BadLine


@with_studio
def command(
    said: StudioOptions,
    task: Task | None = typer.Option(None, help="Of what kind; --requests may leave it to lines."),
    text: str = typer.Option("", "--text", "-t", help="Description, sentence or question."),
    text_file: Path | None = typer.Option(None, help="The same, out of a file."),
    image: Path | None = typer.Option(None, "--image", "-i", help="A picture."),
    audio: Path | None = typer.Option(None, "--audio", "-a", help="A recording."),
    inpaint: Path | None = typer.Option(
        None, help="Mask: draw the light parts of --image anew, keep the rest."
    ),
    requests: Path | None = typer.Option(
        None, help="JSONL with one request a line: task, text, image, audio, key, seed ..."
    ),
    out: Path = typer.Option(Path("generated"), "-o", "--out", help="Folder for what is made."),
    tokens: int | None = typer.Option(None, min=1, help="Length, in place of the length rule."),
    steps: int | None = typer.Option(None, min=1, help="Steps, in place of the recipe's."),
    seed: int = typer.Option(0, help="Of every draw."),
    samples: int = typer.Option(1, min=1, help="So many answers, with further seeds."),
    batch: int = typer.Option(8, min=1, help="Answers that are denoised together."),
    history: bool = typer.Option(True, help="Write the ids after every step."),
    trace: bool = typer.Option(False, help="Draw how each answer came about."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object an answer."),
) -> None:
    """Answer requests: draw, speak, write down, describe, and answer questions.

    Files go to --out, named by the request's key; results.jsonl there lists all of them. A request
    that cannot be answered is listed with the reason, and the exit code is 1.
    """
    from omni_diffusion.generation.ask import Ask, BadLine, read_asks
    from omni_diffusion.generation.files import write_reply
    from omni_diffusion.generation.request import RequestError
    from omni_diffusion.generation.studio import Failed

    asks: Sequence[Ask | BadLine]
    if requests is not None:
        if text or text_file or image or audio or inpaint or tokens or steps or samples > 1:
            raise RequestError("--requests holds all there is to ask: leave the other inputs out")
        asks = list(read_asks(requests, task, seed))
    elif task is None:
        raise RequestError(f"no --task: one of {', '.join(get_args(Task))}")
    else:
        content = text or _read(text_file)
        single = Ask(
            task=task,
            text=content,
            image=image,
            audio=audio,
            inpaint=inpaint,
            tokens=tokens,
            steps=steps,
        )
        single.check()
        asks = [_numbered(single, task, number, samples, seed) for number in range(samples)]
    studio = said.open()
    out.mkdir(parents=True, exist_ok=True)
    about = {"checkpoint": said.checkpoint, "tokenizers": studio.kit.describe()}
    bad = [Failed(key=a.key, reason=a.reason) for a in asks if isinstance(a, BadLine)]
    good = [a for a in asks if not isinstance(a, BadLine)]
    failures, done = 0, len(bad)
    with (out / "results.jsonl").open("w") as results, progress("generate", "answers") as update:

        def put(facts: dict[str, Any], line: str) -> None:
            results.write(json.dumps(facts, ensure_ascii=False) + "\n")
            typer.echo(json.dumps(facts, ensure_ascii=False) if as_json else line)

        answers = studio.answer(good, batch=batch, keep_history=history or trace)
        for reply in (*bad, *answers):
            if isinstance(reply, Failed):
                failures += 1
                put({"key": reply.key, "error": reply.reason}, f"{reply.key}: {reply.reason}")
                continue
            written = write_reply(reply, out, studio.kit, traced=trace, about=about)
            done += 1
            update(done, len(asks))
            facts = reply.facts()
            shown = f": {reply.parts.text}" if reply.parts.text else ""
            files = {"files": [str(path) for path in written]}
            put(facts | files, f"{written[0]}{shown} ({reply.answer.steps} steps)")
    if failures:
        typer.echo(f"error: {failures} of {len(asks)} requests were not answered", err=True)
        sys.exit(1)


def _numbered(ask: Ask, task: str, number: int, samples: int, seed: int) -> Ask:
    from dataclasses import replace

    key = task if samples == 1 else f"{task}-{number:03d}"
    return replace(ask, key=key, seed=seed + number)


def _read(file: Path | None) -> str:
    from omni_diffusion.generation.request import RequestError

    if file is None:
        return ""
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file}: cannot be read: {error}") from error
