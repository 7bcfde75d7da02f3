"""From a written record to what is to be spoken, and back to a record with sound.

    spoken_vqa        a spoken question about a picture, answered in text and speech
    speech_to_image   a spoken description, answered with the picture
    spoken_caption    a spoken request, answered with the picture's caption in text and speech

A source record of the first kind is a conversation about one picture (questions and answers in
turn); of the other two it is a picture and its caption, whichever of the two is asked for. What
comes out has the published form and system prompts (the paper's released data configurations).
Of some records, chosen by key, the answer may be left in text only (`spoken_answers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from omni_diffusion.corpus.record import ALIASES, AUDIO, IMAGE, Message, Record
from omni_diffusion.sdvi.rules import Dropped, Kind, RulesRecipe, Spoken, rules_version, speakable
from omni_diffusion.sdvi.rules.choice import CHOICE, OpenEnded, open_ended
from omni_diffusion.sdvi.templates import caption_request, image_request
from omni_diffusion.sdvi.voices import choose
from omni_diffusion.tokenize.prompts import TASKS

Task = Literal["spoken_vqa", "speech_to_image", "spoken_caption"]

TASK_OF: Mapping[str, Task] = {
    "vqa": "spoken_vqa",
    "t2i": "speech_to_image",
    "caption": "spoken_caption",
}
"""What a record of each task can become."""

FORM = "R0.form"
"""Rule id of records that are no conversation about, or caption of, one picture."""

REWRITE = "T6.rewrite"

SYSTEM: Mapping[Task, str] = {
    "spoken_vqa": "Please response the input audio based on the given image.",
    "speech_to_image": "Please generate an image based on the input audio.",
    "spoken_caption": "Please response the input audio based on the given image.",
}
"""System prompts as published, letter by letter."""

RECORD_TASK: Mapping[Task, str] = {
    "spoken_vqa": "svqa",
    "speech_to_image": "s2i",
    "spoken_caption": "spoken_caption",
}

_WRITTEN_REQUEST = TASKS["t2i"][1].replace("{text}", "").strip()
"""What stands before a description in the published text-to-image data; it is spoken otherwise."""

_HIGHEST_COUNTS = (
    *("wer", "cer", "peak", "silence_s"),
    *("end_silence_s", "clipped_share", "end_db", "noise_db"),
)

_SHARES = 10_000
"""A share is chosen to a hundredth of a percent."""

_WHOLE_RECORD = ("R1.code", "R2.math")
"""The paper drops samples with these anywhere; other rules only end the conversation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A text of a record before the rules.

    Attributes:
        role: `user` or `assistant`.
        turn: number of the question that it belongs to, from 0.
        kind: what it is.
        raw: as it came.
        text: what the rules start from: without options, perhaps rewritten.
        before: ids of the rules that made `text` of `raw`.
        lead: spoken before it, e.g. an instruction.
        fault: why it is known already that the text is of no use.
    """

    role: Literal["user", "assistant"]
    turn: int
    kind: Kind
    raw: str
    text: str
    before: tuple[str, ...] = ()
    lead: str = ""
    fault: Dropped | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A text of the record, whose and in which turn; `aloud` unless it is only written."""

    role: Literal["user", "assistant"]
    turn: int
    spoken: Spoken
    aloud: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All lines of one record, in their order."""

    key: str
    task: Task
    source: Record
    lines: tuple[Line, ...]
    cut: Dropped | None = None
    #: Why the conversation ends before the source's does.

    @property
    def aloud(self) -> tuple[Line, ...]:
        """The lines that are spoken, in the order in which their sounds will stand."""
        return tuple(line for line in self.lines if line.aloud)


@dataclass(frozen=True, kw_only=True, slots=True)
class Uttered:
    """How a line was spoken.

    Attributes:
        voice, gender, accent, rate: who spoke, and how fast.
        attempt: 0 for the first voice or rate that was tried.
        heard: by the recogniser, or None.
        values: what the gates measured.
    """

    voice: str
    gender: str
    accent: str
    rate: float
    attempt: int
    heard: str | None
    values: Mapping[str, float]


def drafts_of(key: str, record: Record, task: Task, max_turns: int) -> list[Draft] | Dropped:
    """The texts of a record that a task needs spoken.

    Args:
        key: of the record; chooses among templates.
        record: a conversation about one picture, or a picture with its caption.
        task: what shall become of it.
        max_turns: questions after this many are left out.
    """
    if len(record.images) != 1 or record.audios:
        detail = f"has {len(record.images)} pictures and {len(record.audios)} sounds, not 1 and 0"
        return Dropped(rule=FORM, detail=detail)
    turns = _turns(record)
    if isinstance(turns, Dropped):
        return turns
    if task == "spoken_vqa":
        first = next(m for m in record.messages if ALIASES.get(m.role, m.role) == "user")
        if IMAGE not in first.content:
            return Dropped(rule=FORM, detail="the picture does not come with the first question")
        return _questions(turns[:max_turns])
    request, answer = turns[0]
    # The picture is the answer to a text (t2i), or the text the answer to a picture (caption).
    caption = answer or request.removeprefix(_WRITTEN_REQUEST).strip()
    if task == "speech_to_image":
        lead = image_request(key)
        return [Draft(role="user", turn=0, kind="caption", raw=caption, text=caption, lead=lead)]
    asked = caption_request(key)
    return [
        Draft(role="user", turn=0, kind="question", raw=asked, text=asked),
        Draft(role="assistant", turn=0, kind="caption", raw=caption, text=caption),
    ]


def plan(
    key: str,
    record: Record,
    task: Task,
    drafts: Sequence[Draft],
    rules: RulesRecipe,
    spoken_answers: float = 1.0,
) -> Plan | Dropped:
    """Apply the rules to the texts of a record.

    A conversation ends before the first turn that has a text without use; where that is the first
    turn, or the text is code or mathematics, the record is dropped. Answers that are only written
    go by the same rules, so that `spoken_answers` does not decide what is asked.

    Args:
        key: of the record; chooses whether its answers are spoken.
        record: where the texts are from.
        task: what becomes of it.
        drafts: its texts, from `drafts_of`.
        rules: what may be spoken, and how it is written and said.
        spoken_answers: part of the records whose answers are spoken as well as written.
    """
    aloud = choose(0, key, "spoken answers", _SHARES) < spoken_answers * _SHARES
    lines: list[Line] = []
    dropped: list[tuple[int, Dropped]] = []
    for draft in drafts:
        result = _spoken(draft, rules)
        if isinstance(result, Dropped):
            dropped.append((draft.turn, result))
        else:
            said = aloud or draft.role == "user"
            lines.append(Line(role=draft.role, turn=draft.turn, spoken=result, aloud=said))
    for _, fault in dropped:
        if fault.rule in _WHOLE_RECORD:
            return fault
    if dropped:
        turn, fault = dropped[0]
        if turn == 0:
            return fault
        kept = tuple(line for line in lines if line.turn < turn)
        return Plan(key=key, task=task, source=record, lines=kept, cut=fault)
    return Plan(key=key, task=task, source=record, lines=tuple(lines))


def build_record(
    plan: Plan, uttered: Sequence[Uttered], sounds: Sequence[str], engine: str, recogniser: str
) -> Record:
    """The record of a plan whose lines have been spoken.

    Args:
        plan: the lines.
        uttered: how each of `plan.aloud` was spoken.
        sounds: name of the sound of each of them.
        engine: fingerprint of what spoke.
        recogniser: fingerprint of what listened, or "".

    Raises:
        RecordError: the source record held something that no record may.
    """
    source = plan.source
    users = [u.voice for u, line in zip(uttered, plan.aloud, strict=True) if line.role == "user"]
    provenance = {**source.provenance, "voice": users[0], "tts_engine": engine}
    utterances = [_metadata(line, u) for line, u in zip(plan.aloud, uttered, strict=True)]
    details: dict[str, Any] = {"utterances": utterances, "rules": rules_version()}
    if written := [_texts(line) for line in plan.lines if not line.aloud]:
        details["written"] = written
    if recogniser:
        details["recogniser"] = recogniser
    if plan.cut:
        details["cut"] = {"rule": plan.cut.rule, "detail": plan.cut.detail}
    record = Record(
        messages=_messages(plan),
        images=source.images,
        audios=tuple(sounds),
        task=RECORD_TASK[plan.task],
        source=source.source,
        license=source.license,
        language=source.language or "en",
        provenance=provenance,
        quality={**source.quality, **_quality(plan, uttered)},
        extra={**source.extra, "sdvi": details},
    )
    record.validate(plan.key)
    return record


def _turns(record: Record) -> list[tuple[str, str]] | Dropped:
    """Question and answer of each turn, without placeholders; the system's part is left out."""
    talk = [m for m in record.messages if ALIASES.get(m.role, m.role) != "system"]
    roles = [ALIASES.get(m.role, m.role) for m in talk]
    if not talk or roles != ["user", "assistant"] * (len(talk) // 2):
        detail = f"roles are {', '.join(roles) or 'none'}, not user and assistant in turn"
        return Dropped(rule=FORM, detail=detail[:200])
    texts = [m.content.replace(IMAGE, "").strip() for m in talk]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _questions(turns: Sequence[tuple[str, str]]) -> list[Draft]:
    drafts: list[Draft] = []
    for turn, (question, answer) in enumerate(turns):
        opened = open_ended(question, answer)
        fault = opened if isinstance(opened, Dropped) else None
        asked, answered, before = question, answer, tuple[str, ...]()
        if isinstance(opened, OpenEnded):
            asked, answered = opened.question, opened.answer
            before = (CHOICE,) if opened.rewritten else ()
        both = partial(Draft, turn=turn, before=before, fault=fault)
        drafts += [
            both(role="user", kind="question", raw=question, text=asked),
            both(role="assistant", kind="answer", raw=answer, text=answered),
        ]
    return drafts


def _spoken(draft: Draft, rules: RulesRecipe) -> Spoken | Dropped:
    result = draft.fault or speakable(draft.text, draft.kind, rules)
    if isinstance(result, Dropped):
        return result
    lead = f"{draft.lead} " if draft.lead else ""
    return Spoken(
        text_raw=draft.raw,
        text_written=lead + result.text_written,
        text_spoken=lead + result.text_spoken,
        rules=(*draft.before, *result.rules),
    )


def _messages(plan: Plan) -> tuple[Message, ...]:
    messages = [Message(role="system", content=SYSTEM[plan.task])]
    for line in plan.lines:
        if line.role == "assistant":
            content = line.spoken.text_written + (f"\n{AUDIO}" if line.aloud else "")
        elif line.turn == 0 and plan.task != "speech_to_image":
            content = f"{AUDIO}\n{IMAGE}"
        else:
            content = AUDIO
        messages.append(Message(role=line.role, content=content))
    if plan.task == "speech_to_image":
        messages.append(Message(role="assistant", content=IMAGE))
    return tuple(messages)


def _texts(line: Line) -> dict[str, Any]:
    spoken = line.spoken
    return {
        "role": line.role,
        "text_raw": spoken.text_raw,
        "text_written": spoken.text_written,
        "text_spoken": spoken.text_spoken,
        "rules": list(spoken.rules),
    }


def _metadata(line: Line, uttered: Uttered) -> dict[str, Any]:
    data = {
        **_texts(line),
        "voice": uttered.voice,
        "gender": uttered.gender,
        "accent": uttered.accent,
        "rate": uttered.rate,
        "attempt": uttered.attempt,
        "values": {name: round(value, 4) for name, value in sorted(uttered.values.items())},
    }
    if uttered.heard is not None:
        data["heard"] = uttered.heard
    return data


def _quality(plan: Plan, uttered: Sequence[Uttered]) -> dict[str, float]:
    """Of the whole record: durations add up, of everything else the worst utterance counts."""
    values = [u.values for u in uttered]
    duration = sum(v["duration_s"] for v in values)
    words = sum(len(line.spoken.text_spoken.split()) for line in plan.aloud)
    spoken_s = sum(
        len(line.spoken.text_spoken.split()) / v["words_per_s"]
        for line, v in zip(plan.aloud, values, strict=True)
    )
    found = {"duration_s": duration, "words_per_s": words / spoken_s}
    found["rms_dbfs"] = min(v["rms_dbfs"] for v in values)
    for name in _HIGHEST_COUNTS:
        if all(name in v for v in values):
            found[name] = max(v[name] for v in values)
    user = next(u for u, line in zip(uttered, plan.aloud, strict=True) if line.role == "user")
    found["voice_rate"] = user.rate
    found["attempts"] = 1 + max(u.attempt for u in uttered)
    return {name: round(value, 4) for name, value in found.items()}
