"""One example of each task: what the model is asked, and what stands in the data as the answer."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.record import AUDIO, IMAGE
from omni_diffusion.pipelines.sources import open_source
from omni_diffusion.pipelines.sources.partition import Source
from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe
from omni_diffusion.recipe import load_recipe
from omni_diffusion.tokenize.prompts import TASKS as PROMPTS
from omni_diffusion.training.opening import load_data

FOLDER = "examples"
REQUESTS = f"{FOLDER}/requests.jsonl"
_LIST = f"{FOLDER}/examples.json"

TASKS = ("t2i", "s2i", "vqa", "svqa", "caption", "asr", "tts")
"""In the order of the page."""

_EACH = {"t2i": (2, 1), "s2i": (1, 1), "vqa": (1, 2), "svqa": (1, 2), "tts": (1, 0)}
"""How many that training has seen, and how many that it has not; else one of either."""
_GIVEN = {"image": ("vqa", "svqa", "caption"), "audio": ("asr", "s2i", "svqa")}
"""Tasks whose first medium of a kind belongs to the question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A sample of the data.

    Attributes:
        key: in its corpus, and of the request.
        task: what it is an example of.
        corpus: where it lies.
        held_out: whether the model has not seen it in training.
        text: what is asked in words.
        answer: what the data answers in words.
        given: files that are asked with: `image`, `audio`; relative to the demo's folder.
        expected: files of the data's answer.
    """

    key: str
    task: str
    corpus: str
    held_out: bool
    text: str = ""
    answer: str = ""
    given: Mapping[str, str] = field(default_factory=dict)
    expected: Mapping[str, str] = field(default_factory=dict)


def write_examples(folder: Path, training: str, lessons: Mapping[str, str]) -> list[Example]:
    """Choose samples, seen in training and held out, and write their media and a request each.

    Args:
        folder: of the demo.
        training: recipe of the training run, relative to the folder.
        lessons: corpora that it learns from, and the tokenize recipe of each one's media.
    """
    with _inside(folder):
        kept = _held_out_keys(training)
        found: list[Example] = []
        for corpus, recipe in lessons.items():
            if corpus not in kept:  # the user's own training recipe leaves it out
                continue
            media = open_source(load_recipe(Path(recipe), TokenizeRecipe).source)
            found += _choose(media, corpus, kept[corpus], {e.task for e in found})
        found.sort(key=lambda e: (TASKS.index(e.task), e.held_out, e.key))
        lines = [json.dumps(_request(example)) for example in found]
        Path(REQUESTS).write_text("\n".join(lines) + "\n")
        Path(_LIST).write_text(json.dumps([asdict(example) for example in found], indent=1))
    return found


def read_examples(folder: Path) -> list[Example]:
    """What `write_examples` wrote."""
    return [Example(**entry) for entry in json.loads((folder / _LIST).read_text())]


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Paths of recipes mean what they mean to the commands, which run in the folder."""
    before = Path.cwd()
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _held_out_keys(training: str) -> dict[str, set[str]]:
    """By corpus, the keys that training never uses: more than evaluation does."""
    data, _ = load_data(training)
    roots = {name: source.corpus for name, source in data.recipe.sources.items()}
    return {
        roots[source.name]: {
            place.key for place in source.places(np.flatnonzero(source.lengths.length == 0))
        }
        for source in data.sources
        if source.name in roots
    }


def _choose(media: Source, corpus: str, kept: set[str], have: set[str]) -> list[Example]:
    """`_EACH` of the tasks that no corpus before this one had, or as many as there are."""
    lesson = set(Corpus(corpus).index.column("key").to_pylist())
    items: dict[tuple[str, bool], list[MediaRecord]] = {}
    for partition in media.partitions():
        for item in media.read(partition):
            if isinstance(item, MediaRecord) and item.key in lesson and _can_be_shown(item):
                items.setdefault((item.record.task, item.key in kept), []).append(item)
    return [
        _written(item, corpus, held_out)
        for (task, held_out), candidates in items.items()
        if task not in have
        for item in sorted(candidates, key=lambda i: i.key)[: _EACH.get(task, (1, 1))[held_out]]
    ]


def _can_be_shown(item: MediaRecord) -> bool:
    """Whether it is one question and one answer, of a task that the page has."""
    roles = [message.role for message in item.record.messages if message.role != "system"]
    return item.record.task in TASKS and roles == ["user", "assistant"]


def _written(item: MediaRecord, corpus: str, held_out: bool) -> Example:
    record = item.record
    asked, answered = record.messages[-2].content, record.messages[-1].content
    given: dict[str, str] = {}
    expected: dict[str, str] = {}
    for kind, files, names in (
        ("image", item.images, record.images),
        ("audio", item.audios, record.audios),
    ):
        for position, (data, name) in enumerate(zip(files, names, strict=True)):
            is_given = position == 0 and record.task in _GIVEN[kind]
            side = given if is_given else expected
            path = Path(FOLDER) / f"{item.key}-{'given' if is_given else 'answer'}{_ending(name)}"
            path.write_bytes(data)
            side[kind] = str(path)
    return Example(
        key=item.key,
        task=record.task,
        corpus=corpus,
        held_out=held_out,
        text=_words(record.task, asked),
        answer=answered.replace(IMAGE, "").replace(AUDIO, "").strip(),
        given=given,
        expected=expected,
    )


def _words(task: str, asked: str) -> str:
    """What a user said within the wording of a task; nothing where all is spoken."""
    pattern = re.escape(PROMPTS[task][1]).replace(re.escape("{text}"), "(.*)")
    found = re.fullmatch(pattern, asked, re.DOTALL)
    return found[1].strip() if found and found.groups() else ""


def _ending(name: str) -> str:
    return Path(name).suffix or ".bin"


def _request(example: Example) -> dict[str, str]:
    """A line of `generate --requests`; its paths are relative to the file that it stands in."""
    files = {kind: Path(path).name for kind, path in example.given.items()}
    request = {"key": example.key, "task": example.task, "text": example.text, **files}
    return {name: value for name, value in request.items() if value}
