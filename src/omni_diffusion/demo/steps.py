"""The commands of the demo, one process each, and a log of those that are done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from omni_diffusion.pipelines.chain import run_step

LOG = "steps.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One command.

    Attributes:
        command: without the program's name; it runs in the demo's folder.
        does: what a newcomer should know of it.
    """

    command: str
    does: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A step that ended well: its command, and the seconds that it took."""

    command: str
    seconds: float


DATA = (
    Step(
        command="demo-media data/demo-media",
        does="Drawings, questions about shapes and spoken sentences, out of installed packages.",
    ),
    Step(
        command="tokenize tokenize/demo.yaml",
        does="Pictures and sounds become codes on a Ray of this machine: shards of tokens.",
    ),
    Step(
        command="synthesize sdvi/demo.yaml",
        does="SDVI: questions and descriptions are made speakable, spoken, and measured.",
    ),
    Step(
        command="tokenize tokenize/sdvi-demo.yaml",
        does="The spoken records become tokens too.",
    ),
    Step(
        command="select corpora/demo \"SELECT key FROM samples WHERE task IN ('t2i', 'caption') "
        'ORDER BY key LIMIT 32" -o corpora/demo-drawings',
        does="By SQL: 16 drawings with captions, as many as a small model can know by heart.",
    ),
    Step(
        command='select corpora/demo "SELECT key FROM samples '
        "WHERE task IN ('asr', 'tts', 'vqa')\" -o corpora/demo-words",
        does="Sentences and questions. Subsets refer to the shards; nothing is copied.",
    ),
    Step(
        command="select corpora/sdvi-demo \"SELECT key FROM samples QUALIFY task = 'svqa' OR "
        'row_number() OVER (PARTITION BY task ORDER BY key) <= 16" -o corpora/demo-spoken',
        does="All spoken questions, and a few of the other spoken records.",
    ),
    Step(command="verify corpora/demo", does="Every byte is checked."),
    Step(command="verify corpora/sdvi-demo", does="Every byte is checked."),
    Step(
        command="report corpora/sdvi-demo -o report.html",
        does="The audit's named queries, drawn, with samples to look at and to listen to.",
    ),
)
TRAINING = (
    Step(
        command="train training/demo.yaml",
        does="A small masked-diffusion model learns all tasks at once.",
    ),
    Step(command="curves runs/demo -o curves.html", does="Loss by task, modality and noise."),
)
GENERATION = (
    Step(
        command="generate runs/demo/model svqa.speech_at=null svqa.length.tokens=32 "
        "--requests examples/requests.jsonl -o generated --trace",
        does="Examples of each task. Spoken answers of the demo are short, and their speech begins "
        "where the model puts it.",
    ),
)


def run_steps(folder: Path, steps: Sequence[Step], say: Callable[[str], None]) -> None:
    """Run what is not done yet.

    A step that was broken off is begun again: every verb goes on where it was.

    Args:
        folder: in which the commands run.
        steps: in order.
        say: called with a line before and after each.

    Raises:
        JobError: a step failed.
        KeyboardInterrupt: interrupted.
    """
    for step in steps:
        log = read_log(folder)
        if any(done.command == step.command for done in log):
            say(f"done before: omni-diffusion {step.command}")
            continue
        say(f"\nomni-diffusion {step.command}\n  {step.does}")
        started = time.monotonic()
        run_step(step.command, folder)
        done = Done(command=step.command, seconds=round(time.monotonic() - started, 1))
        write_log(folder, [*log, done])
        say(f"  took {done.seconds:.0f} s")


def read_log(folder: Path) -> list[Done]:
    """What is done, in order."""
    path = folder / LOG
    return [Done(**entry) for entry in json.loads(path.read_text())] if path.exists() else []


def write_log(folder: Path, log: Sequence[Done]) -> None:
    """Replace the log in one step."""
    partial = folder / f".{LOG}"
    partial.write_text(json.dumps([asdict(done) for done in log], indent=1))
    partial.replace(folder / LOG)
