"""What was spoken in a media corpus: by whom, after which rules, and what each gate let through."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from omni_diffusion.corpus.index import INDEX, shard_numbers
from omni_diffusion.corpus.media_corpus import MediaCorpus
from omni_diffusion.corpus.rejects import Reject, read_rejects
from omni_diffusion.corpus.sidecar import read_table
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError
from omni_diffusion.pipelines.synthesize_recipe import SynthesizeRecipe
from omni_diffusion.recipe import RECIPE, parse_recipe
from omni_diffusion.sdvi.engines.engine import Voice
from omni_diffusion.sdvi.gates import bounds
from omni_diffusion.sdvi.voices import balance

VOICES = "voices.json"
"""Who can speak in a corpus: kept in it, so that a report can name those who never did."""


@dataclass(slots=True)
class VoiceCount:
    """One voice.

    Attributes:
        part: `user`, `assistant` or `held out`.
        records: those whose user has this voice.
        refused: records that gates refused when it spoke last.
    """

    voice: str
    gender: str
    accent: str
    part: str
    records: int = 0
    refused: int = 0


@dataclass(slots=True)
class GateCount:
    """One gate: of so many utterances that it looked at, how many passed it.

    Attributes:
        low, high: its threshold, both ends included (the strictest, where it depends on the text).
        lowest, highest: values that were measured.
    """

    gate: str
    low: float
    high: float
    looked_at: int = 0
    passed: int = 0
    lowest: float = float("inf")
    highest: float = float("-inf")

    def look(self, value: float, low: float, high: float) -> None:
        """Count one value that must lie in some bounds."""
        self.low, self.high = max(self.low, low), min(self.high, high)
        self.looked_at += 1
        self.passed += low <= value <= high
        self.lowest, self.highest = min(self.lowest, value), max(self.highest, value)


@dataclass(frozen=True, kw_only=True, slots=True)
class SpokenReport:
    """What a corpus says of its making.

    Attributes:
        records: spoken ones.
        rejects: by `stage: reason`.
        utterances: in the spoken records.
        rules: how many of these texts each rule changed.
        gates: of the last try of each utterance, those of rejects included.
        voices: each voice that can speak, in the order of the engine.
        gender, accent: records by the user's.
        rate: records by the user's rate, as percent of the voice's own.
        attempts: records by how often their worst utterance was spoken.
        held_out: voices that no record of this split may have.
        least_share: records of the rarest user voice, as a share of an even spread (1 is even).
    """

    records: int
    rejects: Mapping[str, int]
    utterances: int
    rules: Mapping[str, int]
    gates: Sequence[GateCount]
    voices: Sequence[VoiceCount]
    gender: Mapping[str, int] = field(default_factory=dict)
    accent: Mapping[str, int] = field(default_factory=dict)
    rate: Mapping[str, int] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    held_out: Sequence[str] = ()
    least_share: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def spoken_report(root: str) -> SpokenReport:
    """Read the records, not the sounds, of a media corpus.

    Args:
        root: folder or URL of a corpus that `synthesize` has finished.

    Raises:
        CorpusError: there is none, or it is damaged.
    """
    corpus = MediaCorpus(root)
    storage = corpus.storage
    rejects = list(_rejects(storage))
    table = read_table(storage, INDEX, ["voice", "voice_rate", "attempts"])
    spoken = [name for name in table["voice"].to_pylist() if name]
    voices = _voices(storage, spoken, rejects)
    by = balance([Voice(v.voice, v.gender, v.accent) for v in voices], spoken)
    users = [voice.records for voice in voices if voice.part == "user"]
    total = len(spoken)
    rules: Counter[str] = Counter()
    utterances = 0
    gates = _Gates(_recipe(storage))
    for record in corpus.records():
        for utterance in record.extra["sdvi"]["utterances"]:
            utterances += 1
            rules.update(set(utterance["rules"]))
            gates.look(utterance["text_spoken"], utterance["values"])
    for reject in rejects:
        if reject.stage == "gate":
            detail = json.loads(reject.detail)
            gates.look(detail["text"], detail["values"])
    return SpokenReport(
        records=len(corpus),
        rejects=dict(Counter(f"{r.stage}: {r.reason}" for r in rejects).most_common()),
        utterances=utterances,
        rules=dict(sorted(rules.items())),
        gates=list(gates.counts.values()),
        voices=voices,
        gender=by["gender"],
        accent=by["accent"],
        rate=_histogram(table["voice_rate"].to_pylist(), 100),
        attempts=_histogram(table["attempts"].to_pylist(), 1),
        held_out=[voice.voice for voice in voices if voice.part == "held out"],
        least_share=round(min(users) * len(users) / total, 4) if total and users else 0.0,
    )


class _Gates:
    """Counts what the gates of a recipe make of utterances."""

    def __init__(self, recipe: SynthesizeRecipe) -> None:
        self._recipe = recipe.gates
        self.counts: dict[str, GateCount] = {}

    def look(self, text: str, values: Mapping[str, float]) -> None:
        for name, (low, high) in bounds(values, len(text.split()), self._recipe).items():
            count = self.counts.setdefault(name, GateCount(name, low, high))
            count.look(values[name], low, high)


def _recipe(storage: Storage) -> SynthesizeRecipe:
    if storage.size(RECIPE) is None:
        raise CorpusError(storage.path(RECIPE), "there is no such file")
    text = storage.read(RECIPE).decode(errors="replace")
    return parse_recipe(text, storage.path(RECIPE), SynthesizeRecipe)


def _rejects(storage: Storage) -> Iterator[Reject]:
    for number in shard_numbers(storage, with_tar=False):
        yield from read_rejects(storage, number)


def _voices(storage: Storage, spoken: Sequence[str], rejects: Sequence[Reject]) -> list[VoiceCount]:
    if storage.size(VOICES) is None:
        raise CorpusError(storage.path(VOICES), "there is no such file")
    refused = Counter(json.loads(r.detail)["voice"] for r in rejects if r.stage == "gate")
    records = Counter(spoken)
    return [
        VoiceCount(
            v["name"], v["gender"], v["accent"], v["part"], records[v["name"]], refused[v["name"]]
        )
        for v in json.loads(storage.read(VOICES))
    ]


def _histogram(values: Sequence[float | None], scale: int) -> dict[str, int]:
    counts = Counter(round(value * scale) for value in values if value is not None)
    return {str(value): counts[value] for value in sorted(counts)}
