"""Written records in, spoken records out: rules, voices, engine, gates, a batch at a time.

A pure function of the records, the recipe, the engine and the recogniser: neither the order nor
the size of batches matters, so any number of workers makes the same corpus.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from pydantic import Field

from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.errors import RecordError
from omni_diffusion.recipe import Recipe
from omni_diffusion.sdvi.engines import (
    Engine,
    EngineRecipe,
    PicoRecipe,
    SpeechError,
    Utterance,
)
from omni_diffusion.sdvi.gates import Decision, GateRecipe, Verdict, judge
from omni_diffusion.sdvi.recognisers import Recogniser, RecogniserRecipe
from omni_diffusion.sdvi.rewriter import Rewriter, RewriterRecipe
from omni_diffusion.sdvi.rules import Dropped, RulesRecipe
from omni_diffusion.sdvi.sound import Clip
from omni_diffusion.sdvi.speech_cache import SpeechCache
from omni_diffusion.sdvi.tasks import (
    FORM,
    REWRITE,
    TASK_OF,
    Draft,
    Plan,
    Task,
    Uttered,
    build_record,
    drafts_of,
    plan,
)
from omni_diffusion.sdvi.voices import Cast, VoicesRecipe


class SynthesisRecipe(Recipe):
    """What decides how written records become spoken ones."""

    task: Task | Literal["by_record"]
    #: `by_record`: a record of task vqa, t2i or caption becomes its spoken counterpart.
    max_turns: int = Field(default=3, ge=1)
    #: Questions of a conversation that are spoken; the rest is left out.
    spoken_answers: float = Field(default=1.0, ge=0, le=1)
    #: Part of the records whose answers are spoken as well; those of the others are only written.
    rules: RulesRecipe = RulesRecipe()
    rewriter: RewriterRecipe | None = None
    engine: EngineRecipe = PicoRecipe()
    voices: VoicesRecipe = VoicesRecipe()
    gates: GateRecipe = GateRecipe()
    recogniser: RecogniserRecipe | None = None
    #: Without one, texts are not compared.


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A spoken record with its sounds, FLAC each, in the order of `record.audios`."""

    key: str
    record: Record
    audios: tuple[bytes, ...]


@dataclass(slots=True)
class _Take:
    """A line at work: how often it was tried, and what is known of the last try."""

    attempt: int = 0
    utterance: Utterance | None = None
    clip: Clip | None = None
    heard: str | None = None
    verdict: Verdict | None = None


@dataclass(slots=True)
class _Work:
    """A record at work."""

    plan: Plan
    takes: list[_Take] = field(default_factory=list)
    reject: Reject | None = None


class _Open(NamedTuple):
    """A line that has no sound yet."""

    work: _Work
    line: int
    take: _Take


class Producer:
    """See the module.

    Args:
        recipe: rules, voices and gates.
        engine: what speaks.
        cache: what was spoken and heard before.
        recogniser: what listens, or None.
        rewriter: what rewrites texts, or None.

    Raises:
        RecipeError: the recipe names voices that the engine does not have.
    """

    def __init__(
        self,
        recipe: SynthesisRecipe,
        engine: Engine,
        cache: SpeechCache,
        recogniser: Recogniser | None = None,
        rewriter: Rewriter | None = None,
    ) -> None:
        self._recipe, self._engine, self._cache = recipe, engine, cache
        self._recogniser, self._rewriter = recogniser, rewriter
        self._cast = Cast(engine.voices, recipe.voices)
        self._voices = {voice.name: voice for voice in engine.voices}

    def produce(self, records: Sequence[tuple[str, Record]]) -> list[Made | Reject]:
        """Speak a batch.

        Args:
            records: key and record each; see `tasks`.

        Returns:
            A spoken record or a reject for each, in their order.

        Raises:
            StorageError: the cache's store refused.
            RewriteError: the rewriter failed.
        """
        planned = self._plans(records)
        works = [_Work(p, [_Take() for _ in p.aloud]) for p in planned if isinstance(p, Plan)]
        while open_takes := _open_takes(works):
            self._round(works, open_takes)
        finished = iter(works)
        return [self._finish(next(finished)) if isinstance(p, Plan) else p for p in planned]

    def _plans(self, records: Sequence[tuple[str, Record]]) -> list[Plan | Reject]:
        recipe = self._recipe
        tasks = [self._task(record) for _, record in records]
        drafted = [
            task if isinstance(task, Dropped) else drafts_of(key, r, task, recipe.max_turns)
            for (key, r), task in zip(records, tasks, strict=True)
        ]
        drafted = self._rewritten(drafted)
        plans: list[Plan | Reject] = []
        for (key, record), task, drafts in zip(records, tasks, drafted, strict=True):
            result: Plan | Dropped
            if isinstance(task, Dropped):
                result = task
            elif isinstance(drafts, Dropped):
                result = drafts
            else:
                result = plan(key, record, task, drafts, recipe.rules, recipe.spoken_answers)
            if isinstance(result, Dropped):
                plans.append(_reject(key, "select", result.rule, result.detail))
            else:
                plans.append(result)
        return plans

    def _task(self, record: Record) -> Task | Dropped:
        """What becomes of a record."""
        if self._recipe.task != "by_record":
            return self._recipe.task
        if task := TASK_OF.get(record.task):
            return task
        detail = f"task {record.task!r} is none of {', '.join(TASK_OF)}"
        return Dropped(rule=FORM, detail=detail)

    def _rewritten(self, drafted: list[list[Draft] | Dropped]) -> list[list[Draft] | Dropped]:
        if self._rewriter is None:
            return drafted
        kept = [drafts for drafts in drafted if not isinstance(drafts, Dropped)]
        texts = iter(self._rewriter([(d.kind, d.text) for drafts in kept for d in drafts]))
        done: list[list[Draft] | Dropped] = []
        for drafts in drafted:
            if isinstance(drafts, Dropped):
                done.append(drafts)
                continue
            new = [_with_text(draft, next(texts)) for draft in drafts]
            refused = any(not draft.text for draft in new)
            done.append(Dropped(rule=REWRITE, detail="the rewriter dropped it") if refused else new)
        return done

    def _round(self, works: Sequence[_Work], open_takes: Sequence[_Open]) -> None:
        """Speak, hear and judge every line that has no sound; say which ones are tried again."""
        utterances = [self._utterance(work, line) for work, line, _ in open_takes]
        spoken = self._cache.speak(self._engine, utterances)
        for (work, line, take), utterance, result in zip(
            open_takes, utterances, spoken, strict=True
        ):
            if isinstance(result, SpeechError):
                detail = {"text": utterance.text, "voice": utterance.voice, "error": str(result)}
                work.reject = work.reject or _reject(
                    work.plan.key, "speak", result.reason, _json(detail, work, line)
                )
            else:
                take.clip = result
        self._hear([take for work, _, take in open_takes if work.reject is None])
        for work, line, take in open_takes:
            if work.reject is None and take.clip is not None:
                text = work.plan.aloud[line].spoken.text_spoken
                take.verdict = judge(take.clip.measures, text, take.heard, self._recipe.gates)
        for work in works:
            if work.reject is None:
                self._decide(work)

    def _hear(self, takes: Sequence[_Take]) -> None:
        if self._recogniser is None:
            return
        clips = [take.clip for take in takes if take.clip is not None]
        for take, text in zip(takes, self._cache.hear(self._recogniser, clips), strict=True):
            take.heard = text

    def _decide(self, work: _Work) -> None:
        """Refuse the record, or clear the lines that are to be spoken again."""
        again: list[int] = []
        for line, take in enumerate(work.takes):
            assert take.verdict is not None
            if take.verdict.decision is Decision.KEEP:
                continue
            last = take.attempt + 1 >= self._recipe.gates.attempts
            if last or take.verdict.decision is Decision.REJECT:
                work.reject = self._gate_reject(work, line)
                return
            again.append(line)
        if any(work.plan.aloud[line].role == "user" for line in again):
            # The user keeps one voice through the conversation, so all of it is spoken again.
            again += [i for i, line in enumerate(work.plan.aloud) if line.role == "user"]
        for line in set(again):
            work.takes[line] = _Take(attempt=work.takes[line].attempt + 1)

    def _utterance(self, work: _Work, line: int) -> Utterance:
        """What is said, by whom and how fast: chosen once a take."""
        take = work.takes[line]
        if take.utterance is None:
            take.utterance = self._chosen(work, line)
        return take.utterance

    def _chosen(self, work: _Work, line: int) -> Utterance:
        key, attempt = work.plan.key, work.takes[line].attempt
        if work.plan.aloud[line].role == "user":
            voice, rate = self._cast.user(key, attempt)
        else:
            voice, rate = self._cast.reply(key, work.plan.aloud[line].turn, attempt)
        return Utterance(work.plan.aloud[line].spoken.text_spoken, voice, rate)

    def _gate_reject(self, work: _Work, line: int) -> Reject:
        take = work.takes[line]
        assert take.verdict is not None
        detail = {
            "why": take.verdict.detail,
            "text": work.plan.aloud[line].spoken.text_spoken,
            "heard": take.heard,
            "voice": self._utterance(work, line).voice,
            "values": {n: round(v, 4) for n, v in sorted(take.verdict.values.items())},
        }
        reason = "+".join(take.verdict.reasons)
        return _reject(work.plan.key, "gate", reason, _json(detail, work, line))

    def _finish(self, work: _Work) -> Made | Reject:
        if work.reject is not None:
            return work.reject
        uttered, sounds = [], []
        for line, take in enumerate(work.takes):
            assert take.clip is not None
            assert take.verdict is not None
            utterance = self._utterance(work, line)
            voice = self._voices[utterance.voice]
            sounds.append(take.clip.flac)
            uttered.append(
                Uttered(
                    voice=voice.name,
                    gender=voice.gender,
                    accent=voice.accent,
                    rate=utterance.rate,
                    attempt=take.attempt,
                    heard=take.heard,
                    values={**take.verdict.values, "duration_s": take.clip.duration_s},
                )
            )
        names = [f"audio{i}.flac" for i in range(len(sounds))]
        listener = self._recogniser.fingerprint if self._recogniser else ""
        try:
            record = build_record(work.plan, uttered, names, self._engine.fingerprint, listener)
        except RecordError as error:
            return _reject(work.plan.key, "validate", "not a record", str(error))
        return Made(key=work.plan.key, record=record, audios=tuple(sounds))


def _open_takes(works: Sequence[_Work]) -> list[_Open]:
    """Work, line and take of all that is still to be spoken."""
    return [
        _Open(work, line, take)
        for work in works
        if work.reject is None
        for line, take in enumerate(work.takes)
        if take.clip is None
    ]


def _with_text(draft: Draft, text: str) -> Draft:
    if text == draft.text:
        return draft
    return replace(draft, text=text, before=(*draft.before, REWRITE))


def _json(detail: Mapping[str, object], work: _Work, line: int) -> str:
    about = {"role": work.plan.aloud[line].role, "attempts": work.takes[line].attempt + 1}
    return json.dumps({**about, **detail}, ensure_ascii=False)


def _reject(key: str, stage: str, reason: str, detail: str) -> Reject:
    # A detail quotes the text at fault, which may hold halves of characters.
    plain = detail.encode("utf-8", "backslashreplace").decode()
    return Reject(key=key, stage=stage, reason=reason, detail=plain)
