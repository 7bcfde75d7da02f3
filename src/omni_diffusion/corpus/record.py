"""One conversation, in the format that the published training code reads.

    {"messages": [{"role": "user", "content": "<|audio|>\\n<|image|>"}, ...],
     "images": ["a.jpg"], "audios": ["q.wav"],
     "task": "svqa", "source": "easy-vqa", "license": "MIT", "language": "en",
     "provenance": {"origin": "...", "voice": "..."}, "quality": {"wer": 0.0}}

The n-th `<|image|>` of all contents, read in order, stands for `images[n]`, and likewise
`<|audio|>` for `audios[n]`. Only `messages` is required. Unknown keys are kept under `extra`, so
nothing that came in is lost.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omni_diffusion.errors import RecordError

IMAGE = "<|image|>"
AUDIO = "<|audio|>"
ROLES = ("system", "user", "assistant")
ALIASES = {"human": "user", "gpt": "assistant"}
"""Other names of roles that published data sets use; records keep the name that they came with."""

_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
_NAME = re.compile(r"[a-z0-9_]{1,40}")
_KNOWN = ("messages", "images", "audios", "task", "source", "license", "language")
_TEXT_FIELDS = ("source", "license", "language")


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn: `role` is one of `ROLES` or `ALIASES`, `content` is text with placeholders."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A validated conversation. Build it with `Record.from_dict` or call `validate` yourself."""

    messages: tuple[Message, ...]
    images: tuple[str, ...] = ()
    #: Names, paths or URLs of the pictures, in order of their placeholders.
    audios: tuple[str, ...] = ()
    #: Names, paths or URLs of the sounds, in order of their placeholders.
    task: str = ""
    #: `asr`, `tts`, `t2i`, `caption`, `vqa`, `s2i`, `svqa`, `text`, ... or empty.
    source: str = ""
    license: str = ""
    language: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)
    #: Where it came from: `origin`, `voice`, `tts_engine` become sidecar columns.
    quality: Mapping[str, float] = field(default_factory=dict)
    #: Measured values: `wer`, `cer`, `duration_s`, ... become sidecar columns.
    extra: Mapping[str, Any] = field(default_factory=dict)
    #: Any other JSON that came with the record.

    @classmethod
    def from_dict(cls, value: object, key: str = "?") -> Record:
        """Read a plain JSON object.

        Args:
            value: the decoded JSON.
            key: names the record in errors.

        Raises:
            RecordError: names the record, the field and the reason.
        """
        if not isinstance(value, dict):
            raise RecordError(key, "", f"is {_kind(value)}, not an object")
        if "messages" not in value:
            raise RecordError(key, "messages", "is missing")
        plain = {k: value[k] for k in _KNOWN if k in value}
        plain["messages"] = _messages(plain["messages"], key)
        for name in ("images", "audios"):
            plain[name] = _strings(plain.get(name) or [], name, key)
        for name in ("task", *_TEXT_FIELDS):
            plain[name] = plain.get(name) or ""
        extra = dict(_object(value.get("extra") or {}, "extra", key))
        unknown = set(value) - {*_KNOWN, "provenance", "quality", "extra"}
        if both := sorted(unknown & set(extra)):
            raise RecordError(key, both[0], "stands both beside and inside 'extra'")
        extra |= {k: value[k] for k in sorted(unknown)}
        record = cls(
            **plain,
            provenance=_object(value.get("provenance") or {}, "provenance", key),
            quality=_object(value.get("quality") or {}, "quality", key),
            extra=extra,
        )
        record.validate(key)
        return record

    @classmethod
    def from_json(cls, data: bytes | str, key: str = "?") -> Record:
        """Read one JSON text.

        Raises:
            RecordError: not JSON, or not a valid record.
        """
        try:
            value = json.loads(data, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise RecordError(key, "", f"is not JSON: {error}") from None
        return cls.from_dict(value, key)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON object in fixed key order; empty optional fields are left out."""
        messages = [{"role": m.role, "content": m.content} for m in self.messages]
        full: dict[str, Any] = {"messages": messages}
        full |= {"images": list(self.images), "audios": list(self.audios), "task": self.task}
        full |= {name: getattr(self, name) for name in _TEXT_FIELDS}
        for name in ("provenance", "quality", "extra"):
            full[name] = dict(sorted(getattr(self, name).items()))
        return {k: v for k, v in full.items() if v or k == "messages"}

    def to_json(self) -> bytes:
        """Canonical UTF-8 JSON: the same record always gives the same bytes.

        Raises:
            RecordError: `extra` holds something that JSON cannot say.
        """
        try:
            text = json.dumps(
                self.to_dict(), ensure_ascii=False, separators=(",", ":"), allow_nan=False
            )
            return text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise RecordError("?", "extra", f"cannot be written as JSON: {error}") from None

    def validate(self, key: str) -> None:
        """Check everything that `from_dict` promises.

        Raises:
            RecordError: names the record, the field and the reason.
        """
        if not self.messages:
            raise RecordError(key, "messages", "is empty")
        for i, message in enumerate(self.messages):
            if message.role not in (*ROLES, *ALIASES):
                expected = ", ".join((*ROLES, *ALIASES))
                reason = f"is {message.role!r}, expected one of {expected}"
                raise RecordError(key, f"messages.{i}.role", reason)
            _check_text(message.content, f"messages.{i}.content", key)
        for name, placeholder in (("images", IMAGE), ("audios", AUDIO)):
            self._check_media(name, placeholder, key)
        if self.task and not _NAME.fullmatch(self.task):
            reason = f"is {self.task!r}, expected lower-case letters, digits and _ (at most 40)"
            raise RecordError(key, "task", reason)
        for name in _TEXT_FIELDS:
            _check_text(getattr(self, name), name, key)
        for name, text in self.provenance.items():
            _check_text(text, f"provenance.{name}", key)
        for name, number in self.quality.items():
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise RecordError(key, f"quality.{name}", f"is {_kind(number)}, not a number")
            if not math.isfinite(number):
                raise RecordError(key, f"quality.{name}", f"is {number}, not a finite number")

    def _check_media(self, name: str, placeholder: str, key: str) -> None:
        files: tuple[str, ...] = getattr(self, name)
        wanted = sum(m.content.count(placeholder) for m in self.messages)
        if wanted != len(files):
            reason = f"holds {len(files)}, but the messages have {wanted} {placeholder}"
            raise RecordError(key, name, reason)
        for i, file in enumerate(files):
            _check_text(file, f"{name}.{i}", key)
            if not file:
                raise RecordError(key, f"{name}.{i}", "is empty")


def check_key(key: str) -> None:
    """Refuse a key that could not name a tar member everywhere.

    WebDataset ends the key at the first dot, folders would escape the archive, and plain USTAR
    names hold 100 bytes: so 1 to 90 of `A-Z a-z 0-9 _ -`.

    Raises:
        RecordError: the key is of another form.
    """
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise RecordError(str(key), "key", "must be 1 to 90 of A-Z, a-z, 0-9, '_' and '-'")


def _messages(value: object, key: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise RecordError(key, "messages", f"is {_kind(value)}, not a list")
    return tuple(_message(item, f"messages.{i}", key) for i, item in enumerate(value))


def _message(value: object, where: str, key: str) -> Message:
    fields = _object(value, where, key)
    for name in ("role", "content"):
        if name not in fields:
            raise RecordError(key, f"{where}.{name}", "is missing")
        if not isinstance(fields[name], str):
            raise RecordError(key, f"{where}.{name}", f"is {_kind(fields[name])}, not text")
    if unknown := sorted(set(fields) - {"role", "content"}):
        raise RecordError(key, f"{where}.{unknown[0]}", "is not a field of a message")
    return Message(role=fields["role"], content=fields["content"])


def _strings(value: object, where: str, key: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise RecordError(key, where, f"is {_kind(value)}, not a list")
    for i, item in enumerate(value):
        if not isinstance(item, str):
            raise RecordError(key, f"{where}.{i}", f"is {_kind(item)}, not text")
    return tuple(value)


def _object(value: object, where: str, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecordError(key, where, f"is {_kind(value)}, not an object")
    return value


def _check_text(value: object, where: str, key: str) -> None:
    if not isinstance(value, str):
        raise RecordError(key, where, f"is {_kind(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RecordError(key, where, "holds half of a surrogate pair, not valid text") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
