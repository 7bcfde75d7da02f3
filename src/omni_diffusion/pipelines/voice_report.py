"""Who speaks in a spoken corpus, how often, how fast, and with what success."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from omni_diffusion.corpus.index import INDEX, shard_numbers
from omni_diffusion.corpus.manifest import read_manifest
from omni_diffusion.corpus.rejects import read_rejects
from omni_diffusion.corpus.sidecar import read_table
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.sdvi.engines.engine import Voice
from omni_diffusion.sdvi.voices import balance

VOICES = "voices.json"
"""Who can speak in a corpus: kept in it, so that a report can name those who never did."""


@dataclass(slots=True)
class VoiceCount:
    """One voice.

    Attributes:
        part: `user`, `assistant`, `held out`, or "" where the corpus does not say.
        samples: records whose user has this voice.
        refused: records that gates refused when it spoke last.
    """

    voice: str
    gender: str = ""
    accent: str = ""
    part: str = ""
    samples: int = 0
    refused: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class VoiceReport:
    """The balance of a corpus.

    Attributes:
        samples: records with a user's voice.
        voices: each voice that can speak or has spoken, in the order of the engine.
        gender, accent: samples by the user's.
        rate: samples by the user's rate, as percent of the voice's own.
        attempts: samples by how often their worst utterance had to be spoken.
        held_out: voices that no sample may have.
        least_share: samples of the rarest user voice, as a share of an even spread (1 is even).
    """

    samples: int
    voices: Sequence[VoiceCount]
    gender: dict[str, int] = field(default_factory=dict)
    accent: dict[str, int] = field(default_factory=dict)
    rate: dict[str, int] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    held_out: Sequence[str] = ()
    least_share: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def voice_report(root: str) -> VoiceReport:
    """Count the voices of a media corpus, or of a token corpus that was made of one.

    Args:
        root: folder or URL of the corpus.

    Raises:
        CorpusError: there is no finished corpus, or its index is damaged.
    """
    storage = Storage(root)
    read_manifest(storage)
    table = read_table(storage, INDEX, ["voice", "voice_rate", "attempts"])
    voices = {voice.voice: voice for voice in _cast(storage)}
    for name, count in Counter(filter(None, table["voice"].to_pylist())).items():
        voices.setdefault(name, VoiceCount(name)).samples = count
    for name, count in _refused(storage).items():
        voices.setdefault(name, VoiceCount(name)).refused = count
    found = list(voices.values())
    spoken = [name for name in table["voice"].to_pylist() if name]
    by = balance([Voice(v.voice, v.gender or "unknown", v.accent) for v in found], spoken)
    users = [voice.samples for voice in found if voice.part in ("user", "")]
    total = sum(voice.samples for voice in found)
    return VoiceReport(
        samples=total,
        voices=found,
        gender=by["gender"],
        accent=by["accent"],
        rate=_histogram(table["voice_rate"].to_pylist(), 100),
        attempts=_histogram(table["attempts"].to_pylist(), 1),
        held_out=[voice.voice for voice in found if voice.part == "held out"],
        least_share=round(min(users) * len(users) / total, 4) if total and users else 0.0,
    )


def _cast(storage: Storage) -> list[VoiceCount]:
    if storage.size(VOICES) is None:
        return []
    voices = json.loads(storage.read(VOICES))
    return [VoiceCount(v["name"], v["gender"], v["accent"], v["part"]) for v in voices]


def _refused(storage: Storage) -> Counter[str]:
    """Records that a gate refused, by the voice that spoke last."""
    found: Counter[str] = Counter()
    for number in shard_numbers(storage, with_tar=False):
        for reject in read_rejects(storage, number):
            if reject.stage == "gate":
                found[json.loads(reject.detail)["voice"]] += 1
    return found


def _histogram(values: Sequence[float | None], scale: int) -> dict[str, int]:
    counts = Counter(round(value * scale) for value in values if value is not None)
    return {str(value): counts[value] for value in sorted(counts)}
