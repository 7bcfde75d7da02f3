"""A benchmark from beginning to end: answers for every number of steps asked, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import Image

from omni_diffusion.generation.evaluation import choices
from omni_diffusion.generation.evaluation.clip import Clip, mean_cosine
from omni_diffusion.generation.evaluation.items import BenchmarkError, Item
from omni_diffusion.generation.evaluation.words import word_errors
from omni_diffusion.generation.studio import Failed, Reply, Studio
from omni_diffusion.sdvi.engines.engine import Speech
from omni_diffusion.sdvi.recognisers import Recogniser
from omni_diffusion.tokenize.image.preprocess import load_picture


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """An item with what the model said to it.

    Attributes:
        item: of the benchmark.
        reply: text, codes and media.
    """

    item: Item
    reply: Reply


class Suite(Protocol):
    """How one benchmark is scored."""

    def score(self, answered: Sequence[Answered]) -> dict[str, Any]:
        """Scores of all answers together; the first is what the paper gives."""
        ...

    def row(self, answered: Answered) -> dict[str, Any]:
        """One answer, for the file of answers."""
        ...


class AsrSuite:
    """Word error rate of what was written down."""

    def score(self, answered: Sequence[Answered]) -> dict[str, Any]:
        """See `Suite`."""
        said = [a.item.expected for a in answered]
        return word_errors(said, [a.reply.parts.text for a in answered]).facts()

    def row(self, answered: Answered) -> dict[str, Any]:
        """See `Suite`."""
        return {"expected": answered.item.expected, "answer": answered.reply.parts.text}


class TtsSuite:
    """Word error rate of what a recogniser hears in what was spoken; no sound is heard as ""."""

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser
        self._heard: dict[int, str] = {}

    def score(self, answered: Sequence[Answered]) -> dict[str, Any]:
        """See `Suite`."""
        heard = [self._hear(a) for a in answered]
        found = word_errors([a.item.expected for a in answered], heard).facts()
        silent = sum(a.reply.sound is None for a in answered)
        return found | {"silent": silent, "recogniser": self._recogniser.fingerprint}

    def row(self, answered: Answered) -> dict[str, Any]:
        """See `Suite`."""
        return {"expected": answered.item.expected, "heard": self._hear(answered)}

    def _hear(self, answered: Answered) -> str:
        sound, key = answered.reply.sound, id(answered.reply)
        if key not in self._heard:
            self._heard[key] = ""
            if sound is not None:
                speech = Speech(sound.samples.numpy(), sound.sample_rate_hz)
                (self._heard[key],) = self._recogniser.transcribe_many([speech])
        return self._heard[key]


class PopeSuite:
    """POPE."""

    def score(self, answered: Sequence[Answered]) -> dict[str, Any]:
        """See `Suite`."""
        read = [choices.pope_answer(a.reply.parts.text) for a in answered]
        return choices.pope_scores(read, [a.item.expected for a in answered])

    def row(self, answered: Answered) -> dict[str, Any]:
        """See `Suite`: as POPE's own answer files."""
        text = answered.reply.parts.text
        return {**answered.item.facts, "answer": text, "label": answered.item.expected}


class MmeSuite:
    """MME, perception."""

    def score(self, answered: Sequence[Answered]) -> dict[str, Any]:
        """See `Suite`."""
        return choices.mme_scores(
            (
                a.item.group,
                a.item.facts["image"],
                choices.mme_answer(a.reply.parts.text),
                a.item.expected,
            )
            for a in answered
        )

    def row(self, answered: Answered) -> dict[str, Any]:
        """See `Suite`."""
        text = answered.reply.parts.text.replace("\n", " ").replace("\t", " ")
        return {"subtask": answered.item.group, **answered.item.facts, "prediction": text}


class SeedSuite:
    """SEED-Bench-2-Plus."""

    def score(self, answered: Sequence[Answered]) -> dict[str, Any]:
        """See `Suite`."""
        rights = [(a.item.group, self._letter(a) == a.item.expected) for a in answered]
        unread = sum(not self._letter(a) for a in answered)
        return {**choices.group_accuracy(rights), "unread": unread}

    def row(self, answered: Answered) -> dict[str, Any]:
        """See `Suite`: as its answer files, `question_id` and `prediction`."""
        return {
            "question_id": answered.item.facts["question_id"],
            "prediction": self._letter(answered),
            "answer": answered.item.expected,
            "text": answered.reply.parts.text,
        }

    def _letter(self, answered: Answered) -> str:
        return choices.seed_answer(answered.reply.parts.text, answered.item.facts["choices"])


class PictureSuite:
    """CLIP-T with the text, CLIP-I with the reference pictures.

    For speech, also how far pictures drawn from speech agree with those drawn from the same words
    in writing, with the same seed: cosine of the pictures, and part of equal codes.
    """

    def __init__(self, clip: Clip | None, studio: Studio | None = None) -> None:
        """With a studio, what was said is drawn from its text as well."""
        self._clip, self._studio = clip, studio

    def score(self, answered: Sequence[Answered]) -> dict[str, Any]:
        """See `Suite`."""
        drawn = [a for a in answered if a.reply.picture is not None]
        found: dict[str, Any] = {
            "pictures": len(drawn),
            "without_picture": len(answered) - len(drawn),
        }
        if not drawn:
            return found
        pictures = [_picture(a) for a in drawn]
        if self._clip is not None:
            found["clip"] = self._clip.name
            vectors = self._clip.pictures(pictures)
            words = self._clip.texts([a.item.expected for a in drawn])
            found["clip_t"] = round(mean_cosine(vectors, words), 5)
            pairs = [(v, a.item.reference) for v, a in zip(vectors, drawn, strict=True)]
            known = [(v, load_picture(path)) for v, path in pairs if path is not None]
            if known:
                compared = self._clip.pictures([picture for _, picture in known])
                own = vectors[[i for i, (_, path) in enumerate(pairs) if path is not None]]
                found["clip_i"] = round(mean_cosine(own, compared), 5)
        if self._studio is not None:
            found |= self._agreement(drawn, pictures)
        return found

    def row(self, answered: Answered) -> dict[str, Any]:
        """See `Suite`."""
        return {"text": answered.item.expected, "codes": _codes(answered.reply)}

    def _agreement(
        self, drawn: Sequence[Answered], pictures: Sequence[Image.Image]
    ) -> dict[str, Any]:
        assert self._studio is not None
        asks = [
            replace(
                a.item.ask, task="t2i", text=a.item.expected, audio=None, steps=a.reply.answer.steps
            )
            for a in drawn
        ]
        written = [r for r in self._studio.answer(asks) if isinstance(r, Reply)]
        if len(written) != len(drawn):
            raise BenchmarkError("a text could not be drawn from: the agreement has no pairs")
        equal = [_equal(a.reply, other) for a, other in zip(drawn, written, strict=True)]
        found: dict[str, Any] = {"speech_text_codes_equal": round(sum(equal) / len(equal), 5)}
        if self._clip is not None:
            others = [r.picture for r in written if r.picture is not None]
            one, other = self._clip.pictures(pictures), self._clip.pictures(others)
            found["speech_text_clip_i"] = round(mean_cosine(one, other), 5)
        return found


def run_steps(
    studio: Studio,
    items: Sequence[Item],
    suite: Suite,
    steps: Sequence[int | None],
    *,
    batch: int,
    on_answer: Callable[[int | None, Answered], None],
    on_progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Answer all items once for every number of steps, and score each pass.

    Args:
        studio: model, tokenizers and recipe.
        items: of the benchmark.
        suite: how it is scored.
        steps: numbers of steps; None is the recipe's own.
        batch: answers that are denoised together.
        on_answer: gets every answer as it comes.
        on_progress: called with answers done and all.

    Returns:
        For each number of steps: `steps`, `scores`, `forwards`, `seconds` and `items`.

    Raises:
        OmniError: an item cannot be answered (a benchmark has no score without all of them).
    """
    done, rows = 0, []
    for number in steps:
        answered: list[Answered] = []
        forwards: dict[int, tuple[int, float]] = {}
        for group in _groups(items, batch):
            asks = [replace(item.ask, steps=number) for item in group]
            replies = list(studio.answer(asks, batch=batch))
            for item, reply in zip(group, replies, strict=True):
                if isinstance(reply, Failed):
                    raise BenchmarkError(f"item {reply.key}: {reply.reason}")
                answered.append(Answered(item=item, reply=reply))
                on_answer(number, answered[-1])
                forwards[done // batch] = (reply.forwards, reply.seconds)
            done += len(group)
            if on_progress is not None:
                on_progress(done, len(items) * len(steps))
        rows.append(
            {
                "steps": number,
                "items": len(answered),
                "mean_steps": sum(a.reply.answer.steps for a in answered) / len(answered),
                "forwards": sum(count for count, _ in forwards.values()),
                "seconds": round(sum(seconds for _, seconds in forwards.values()), 3),
                "scores": suite.score(answered),
            }
        )
    return rows


def _groups(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]


def _picture(answered: Answered) -> Image.Image:
    picture = answered.reply.picture
    assert picture is not None
    return picture


def _codes(reply: Reply) -> list[int]:
    return [] if reply.parts.picture is None else reply.parts.picture.tolist()


def _equal(one: Reply, other: Reply) -> float:
    pairs = list(zip(_codes(one), _codes(other), strict=False))
    return sum(a == b for a, b in pairs) / max(len(pairs), 1)
