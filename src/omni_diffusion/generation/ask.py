"""What a user asks: a task with its text, pictures and sounds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeAlias

from omni_diffusion.errors import RecordError
from omni_diffusion.generation.generation_recipe import TASKS, GenerationRecipe
from omni_diffusion.generation.request import RequestError
from omni_diffusion.tokenize.prompts import task_messages

Media: TypeAlias = Path | bytes
"""A file, or what is in one."""

PROMPTS: Final[Mapping[str, str]] = {name: "text" if name == "chat" else name for name in TASKS}
"""Names of the tasks in `tokenize.prompts`."""

_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "t2i": ("text",),
    "s2i": ("audio",),
    "tts": ("text",),
    "asr": ("audio",),
    "caption": ("image",),
    "vqa": ("text", "image"),
    "svqa": ("audio", "image"),
    "sqa": ("audio",),
    "chat": ("text",),
}
_OPTIONAL: Final[Mapping[str, tuple[str, ...]]] = {"caption": ("text",)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Ask:
    """One request in a user's terms.

    Attributes:
        task: one of `TASKS`.
        key: names the files that are written.
        text: description, sentence or question, for the tasks that have one.
        image: the picture that is asked about; with `inpaint` the one that is changed.
        audio: what is said.
        messages: of `chat`, a conversation in place of `text`: `role` and `content` each.
        inpaint: a picture whose light parts are drawn anew, the rest of `image` stays.
        tokens: content of the answer, in place of the recipe's length rule.
        steps: in place of the recipe's.
        seed: of every draw.
    """

    task: str
    key: str = "answer"
    text: str = ""
    image: Media | None = None
    audio: Media | None = None
    messages: Sequence[Mapping[str, str]] = ()
    inpaint: Media | None = None
    tokens: int | None = None
    steps: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Refuse an unknown task, and what is missing or of no use to it.

        Raises:
            RequestError: says what and what would help.
        """
        if self.task not in TASKS:
            raise RequestError(f"task {self.task!r} is none of {', '.join(TASKS)}")
        needed = set(() if self.messages else _NEEDS[self.task])
        given = {name for name in ("text", "image", "audio") if getattr(self, name)}
        if self.inpaint is not None:
            if self.task not in ("t2i", "s2i"):
                raise RequestError(f"inpaint draws pictures: {self.task} gives none")
            needed.add("image")
        if missing := sorted(needed - given):
            raise RequestError(f"{self.task} needs {_listed(missing)}, which is missing")
        if surplus := sorted(given - needed - set(_OPTIONAL.get(self.task, ()))):
            raise RequestError(f"{self.task} has no use for {_listed(surplus)}")
        if self.messages and self.task != "chat":
            raise RequestError(f"messages are for chat, not for {self.task}")
        for name in ("tokens", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} {value}: an answer has at least one")
        if self.tokens is not None and self.task in ("t2i", "s2i"):
            raise RequestError(f"tokens: {self.task} draws a picture, which has 256 codes")

    def conversation(self, recipe: GenerationRecipe) -> list[dict[str, str]]:
        """The messages that ask for it, worded as in training.

        Raises:
            RequestError: a text is missing.
        """
        if self.messages:
            return [dict(message) for message in self.messages]
        text = self.text or (recipe.caption_instruction if self.task == "caption" else "")
        try:
            return task_messages(PROMPTS[self.task], text)
        except RecordError as error:
            raise RequestError(f"{self.task}: {error.field} {error.reason}") from None


@dataclass(frozen=True, kw_only=True)
class BadLine:
    """A line of a file of requests that cannot be used.

    Attributes:
        key: of the request, or its number.
        reason: what is wrong.
    """

    key: str
    reason: str


_KEYS: Final = {f.name for f in fields(Ask)}


def read_asks(path: Path, task: str | None, seed: int) -> Iterator[Ask | BadLine]:
    """Requests of a JSONL file, one object a line with the attributes of `Ask` as keys.

    Files are looked for beside the JSONL file, unless they are absolute.

    Args:
        path: the file.
        task: of the lines that name none.
        seed: of the lines that name none; each gets a further one.

    Raises:
        RequestError: the file cannot be read.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from error
    seen: set[str] = set()
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        key = f"{number:05d}"
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise RequestError(f"is {type(value).__name__}, not an object")
            key = str(value.get("key", key))
            defaults = {"key": key, "seed": seed + number} | ({"task": task} if task else {})
            ask = from_json(defaults | value, path.parent)
            if key in seen:
                raise RequestError(f"key {key!r} stands twice")
            seen.add(key)
            yield ask
        except (ValueError, RequestError) as error:
            yield BadLine(key=key, reason=f"{path.name} line {number + 1}: {error}")


def from_json(value: Mapping[str, Any], folder: Path) -> Ask:
    """A request out of JSON.

    Args:
        value: keys are attributes of `Ask`.
        folder: that paths of files are relative to.

    Raises:
        RequestError: an unknown key, a wrong type, or no task.
    """
    if unknown := sorted(set(value) - _KEYS):
        raise RequestError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
    if not isinstance(value.get("task"), str):
        raise RequestError(f"no task; one of {', '.join(TASKS)}")
    for name in ("key", "text", "image", "audio", "inpaint"):
        if not isinstance(value.get(name, ""), str):
            raise RequestError(f"{name} is {type(value[name]).__name__}, not text")
    for name in ("tokens", "steps", "seed"):
        if name in value and type(value[name]) is not int:
            raise RequestError(f"{name} is {value[name]!r}, not a whole number")
    media = {n: folder / value[n] for n in ("image", "audio", "inpaint") if value.get(n)}
    key = str(value.get("key", "answer"))
    if not key or key.startswith(".") or "/" in key or "\\" in key or len(key) > 120:
        raise RequestError(f"key {key!r} is no name of a file")
    messages = value.get("messages", ())
    if not isinstance(messages, list | tuple) or not all(isinstance(m, dict) for m in messages):
        raise RequestError("messages must be a list of objects with role and content")
    plain = {n: value[n] for n in ("task", "text", "tokens", "steps", "seed") if n in value}
    return Ask(key=key, messages=tuple(messages), **plain, **media)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What of a prompt the length rules count.

    Attributes:
        text: tokens of the user's text, without the instruction.
        speech: codes of the user's speech.
    """

    text: int = field(default=0)
    speech: int = field(default=0)
