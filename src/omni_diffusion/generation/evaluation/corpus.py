"""A model against a token corpus: what it was trained on, or held out from it.

Every sample whose task is known becomes a question: the conversation up to the assistant's last
turn, which is then compared with what the corpus has there. For pictures and speech that is the
part of the codes that are right, for text the word error rate and the answers that are equal after
normalization, with an interval and the best that guessing could do: always the commonest answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from omni_diffusion.backbone.dream import Inserts
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.record import AUDIO, IMAGE
from omni_diffusion.corpus.sample import BY_NAME, Sample
from omni_diffusion.errors import CorpusError, FingerprintError
from omni_diffusion.generation.ask import Ask, Counted
from omni_diffusion.generation.evaluation.choices import wilson
from omni_diffusion.generation.evaluation.items import BenchmarkError
from omni_diffusion.generation.evaluation.words import normalizer, word_errors
from omni_diffusion.generation.generation_recipe import TASKS
from omni_diffusion.generation.kit import Codes
from omni_diffusion.generation.layout import SPEECH_CODES_PER_FRAME, Prepared, lay_out
from omni_diffusion.generation.studio import Reply, Studio
from omni_diffusion.tokenize.chat import Modality, Role
from omni_diffusion.tokenize.spans import from_corpus

_PICTURES: Final = (Modality.IMAGE_256, Modality.IMAGE_512)


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A sample as a question.

    Attributes:
        prepared: prompt and hidden answer.
        asked: the words that it is asked with.
        text: what the corpus has as the answer's text.
        picture: its picture codes, or None.
        speech: its speech codes, or None.
    """

    prepared: Prepared
    asked: str
    text: str
    picture: Codes | None
    speech: Codes | None


def questions(
    studio: Studio,
    corpus: Corpus,
    *,
    task: str | None = None,
    keys: Sequence[str] | None = None,
    limit: int | None = None,
) -> Iterator[Question]:
    """Samples of a corpus as questions, in its order.

    Args:
        studio: model and tokenizers.
        corpus: made with the same tokenizers.
        task: only samples of this task.
        keys: only these samples, in this order.
        limit: at most so many.

    Raises:
        FingerprintError: the corpus was made with other tokenizers than the model knows.
        BenchmarkError: a key is not in the corpus, or no sample fits.
    """
    for name, theirs in corpus.manifest.fingerprints.items():
        ours = studio.kit.fingerprints.get(name, theirs)
        if ours != theirs:
            reason = f"{name}: the corpus has {theirs}, the checkpoint was trained with {ours}"
            raise FingerprintError(corpus.storage.root, reason)
    found = 0
    for sample in _samples(corpus, keys):
        name = {"text": "chat"}.get(sample.record.task, sample.record.task)
        if name not in TASKS or (task is not None and name != task):
            continue
        question = _question(studio, sample, name)
        if question is None:
            continue
        yield question
        found += 1
        if found == limit:
            return
    if not found:
        raise BenchmarkError(
            f"{corpus.storage.root}: no sample to ask{f' of {task}' if task else ''}"
        )


def run(
    studio: Studio,
    asked: Sequence[Question],
    *,
    batch: int,
    on_answer: Callable[[Question, Reply], None],
    on_progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Answer all questions and score them, task by task.

    Args:
        studio: model and recipe.
        asked: from `questions`.
        batch: answers that are denoised together.
        on_answer: gets every answer beside its question.
        on_progress: called with answers done and all.

    Returns:
        For each task: `task`, `scores`, `mean_steps`, `forwards`, `seconds` and `items`.
    """
    groups: dict[str, list[Question]] = {}
    for question in asked:
        groups.setdefault(question.prepared.ask.task, []).append(question)
    done, rows = 0, []
    for task, of_task in sorted(groups.items()):
        pairs: list[tuple[Question, Reply]] = []
        forwards, seconds = 0, 0.0
        for at in range(0, len(of_task), batch):
            part = of_task[at : at + batch]
            replies = studio.denoise([question.prepared for question in part], decode=False)
            pairs += zip(part, replies, strict=True)
            forwards, seconds = forwards + replies[0].forwards, seconds + replies[0].seconds
            for pair in pairs[at:]:
                on_answer(*pair)
            done += len(part)
            if on_progress is not None:
                on_progress(done, len(asked))
        rows.append(
            {
                "task": task,
                "steps": None,
                "items": len(pairs),
                "mean_steps": sum(reply.answer.steps for _, reply in pairs) / len(pairs),
                "forwards": forwards,
                "seconds": round(seconds, 3),
                "scores": _score(pairs),
            }
        )
    return rows


def row(question: Question, reply: Reply) -> dict[str, Any]:
    """One answer beside what was expected."""
    found: dict[str, Any] = {"key": question.prepared.ask.key, "task": question.prepared.ask.task}
    if question.asked:
        found["asked"] = question.asked
    if question.text:
        found |= {"expected": question.text, "answer": reply.parts.text}
    for name, expected, codes in _codes(question, reply):
        found[f"{name}_codes_right"] = round(part_right(expected, codes), 4)
    return found


def _samples(corpus: Corpus, keys: Sequence[str] | None) -> Iterator[Sample]:
    if keys is None:
        yield from corpus
        return
    for key in keys:
        try:
            yield corpus.get(key)
        except CorpusError as error:
            raise BenchmarkError(f"{corpus.storage.root}: {error}") from None


def _question(studio: Studio, sample: Sample, task: str) -> Question | None:
    """None for a conversation that does not end with the assistant."""
    table = from_corpus(sample.key, sample.spans)
    last = table[-1, 0] if len(table) else -1
    answer, before = table[table[:, 0] == last], table[table[:, 0] != last]
    if not len(answer) or answer[0, 1] != Role.ASSISTANT or not len(before):
        return None
    streams: dict[int, NDArray[Any]] = {
        BY_NAME[name].code: stream for name, stream in sample.streams.items()
    }
    codes = {kind: stream for kind, stream in streams.items() if kind != Modality.FEATURES}
    sequence = studio.kit.template.assemble(sample.key, before, codes, prompt=True)
    inserts = None
    if sequence.audio_indices:
        frames = before[before[:, 2] == Modality.FEATURES][:, 3:]
        device = studio.model.lm_head.weight.device
        heard = [
            torch.from_numpy(streams[Modality.FEATURES][start : start + n].astype(np.float32))
            for start, n in frames.tolist()
        ]
        with torch.no_grad():
            vectors = studio.model.embed_speech([features.to(device) for features in heard])
        places = torch.from_numpy(np.concatenate(sequence.audio_indices)).long()
        inserts = Inserts(places, torch.cat(vectors))
    asked = _asked(sample, before)
    prepared = lay_out(
        Ask(task=task, key=sample.key),
        torch.from_numpy(sequence.ids).long(),
        inserts,
        _counted(studio, asked, before),
        studio.model,
        studio.kit,
        studio.recipe,
    )
    text = _stream(answer, streams, (Modality.TEXT,))
    return Question(
        prepared=prepared,
        asked=asked.replace(IMAGE, "").replace(AUDIO, "").strip(),
        text="" if text is None else studio.kit.text.decode(text).strip(),
        picture=_stream(answer, streams, _PICTURES),
        speech=_stream(answer, streams, (Modality.SPEECH,)),
    )


def _asked(sample: Sample, before: NDArray[np.int32]) -> str:
    """The user's last words, without the instruction of a task that has one."""
    asked = sample.record.messages[int(before[-1, 0])].content
    return asked.partition("\n")[2] if sample.record.task in ("tts", "t2i") else asked


def _counted(studio: Studio, asked: str, before: NDArray[np.int32]) -> Counted:
    """What the length rules count: the words, and the speech."""
    modality, lengths = before[:, 2], before[:, 4]
    frames = int(lengths[modality == Modality.FEATURES].sum())
    codes = int(lengths[modality == Modality.SPEECH].sum())
    speech = codes + round(frames * SPEECH_CODES_PER_FRAME)
    return Counted(text=len(studio.kit.text.encode(asked)), speech=speech)


def _stream(
    answer: NDArray[np.int32], streams: Mapping[int, NDArray[Any]], kinds: Sequence[int]
) -> Codes | None:
    """The pieces of an answer in these streams, one after the other."""
    rows = answer[np.isin(answer[:, 2], kinds)]
    parts = [streams[kind][start : start + n] for _, _, kind, start, n in rows.tolist() if n]
    return np.concatenate(parts).astype(np.int64) if parts else None


def _score(pairs: Sequence[tuple[Question, Reply]]) -> dict[str, Any]:
    found: dict[str, Any] = {"samples": len(pairs)}
    written = [(q.text, r.parts.text) for q, r in pairs if q.text]
    if written:
        expected, answers = [e for e, _ in written], [a for _, a in written]
        normalize = normalizer()
        plain = [(normalize(e), normalize(a)) for e, a in written]
        right = sum(e == a for e, a in plain)
        low, high = wilson(right, len(plain))
        commonest = Counter(e for e, _ in plain).most_common(1)[0][1]
        words = word_errors(expected, answers)
        found |= {
            "wer": round(words.wer, 4),
            "answers_equal": round(right / len(plain), 4),
            "interval_95": [round(low, 4), round(high, 4)],
            "guessing_the_commonest": round(commonest / len(plain), 4),
            "words": words.facts(),
        }
    shares: dict[str, list[float]] = {}
    for question, reply in pairs:
        for name, wanted, codes in _codes(question, reply):
            shares.setdefault(name, []).append(part_right(wanted, codes))
    for name, values in shares.items():
        found[f"{name}_codes_right"] = round(sum(values) / len(values), 4)
        found[f"{name}_answers_with_90_percent_right"] = sum(value >= 0.9 for value in values)
    return found


def _codes(question: Question, reply: Reply) -> Iterator[tuple[str, Codes, Codes]]:
    """Expected and generated codes, by kind."""
    for name in ("picture", "speech"):
        expected, codes = getattr(question, name), getattr(reply.parts, name)
        if expected is not None:
            yield name, expected, np.zeros(0, np.int64) if codes is None else codes


def part_right(expected: Codes, codes: Codes) -> float:
    """Part of the expected codes that stand where they should."""
    n = min(len(expected), len(codes))
    return float(np.count_nonzero(expected[:n] == codes[:n])) / len(expected)
