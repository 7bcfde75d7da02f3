"""A sample as it is shown: its conversation, with pictures and sounds made of its codes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from omni_diffusion.audit.report.encoding import Budget, picture_uri, sound_uri
from omni_diffusion.audit.report.gallery import Place
from omni_diffusion.audit.report.text import cell, heading, shortened
from omni_diffusion.corpus.record import AUDIO, IMAGE
from omni_diffusion.corpus.sample import STREAMS, Sample, decode_sample
from omni_diffusion.corpus.sidecar import QUALITY, tar_name
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError, MediaError, OmniError, WeightsError
from omni_diffusion.tokenize.codes import Codes, span_codes
from omni_diffusion.tokenize.media import MediaTokenizers

_PLACEHOLDER = re.compile(f"({re.escape(IMAGE)}|{re.escape(AUDIO)})")
_THUMB = 128
"""Pixels of the small pictures at the head of a report."""

_ALT = 160


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a turn.

    Attributes:
        kind: `text`, `picture`, `sound`, or `absent` for a medium that cannot be shown.
        text: the text, what stands for a picture where it cannot be seen, or why it is absent.
        left_out: characters of the text that are not shown.
        uri: of a picture or sound.
        thumb: of a picture, small.
        note: what to know of the medium.
        width, height: of a picture, pixels.
    """

    kind: Literal["text", "picture", "sound", "absent"]
    text: str = ""
    left_out: int = 0
    uri: str = ""
    thumb: str = ""
    note: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A message: who speaks, and what."""

    role: str
    parts: list[Part]


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A sample of the gallery.

    Attributes:
        facts: name and value of what is known of it.
    """

    place: Place
    turns: list[Turn]
    facts: list[tuple[str, str]] = field(default_factory=list)

    @property
    def picture(self) -> Part | None:
        """Its first picture."""
        parts = (part for turn in self.turns for part in turn.parts)
        return next((part for part in parts if part.kind == "picture"), None)


def read_sample(storage: Storage, place: Place) -> Sample:
    """Read one sample out of its shard, by one request.

    Raises:
        CorpusError: its bytes are not there or not the ones that the index speaks of.
    """
    name = tar_name(place.shard)
    data = storage.read(name, place.offset, place.offset + place.size)
    if len(data) != place.size:
        reason = f"ends before the sample {place.key!r} does"
        raise CorpusError(storage.path(name), reason)
    return decode_sample(place.key, data, storage.path(name), place.crc)


class Decoder:
    """Makes exhibits of samples.

    A tokenizer that cannot be loaded is not tried again: its media are absent, with the reason.

    Args:
        tokenizers: the ones that made the corpus.
        budget: bytes for media.
    """

    def __init__(self, tokenizers: MediaTokenizers, budget: Budget) -> None:
        self._tokenizers, self._budget = tokenizers, budget
        self._refused: dict[str, str] = {}

    def exhibit(self, place: Place, sample: Sample, fingerprints: Mapping[str, str]) -> Exhibit:
        """What is shown of a sample.

        Args:
            place: of the sample.
            sample: its contents.
            fingerprints: of the tokenizers that made its codes.

        Raises:
            RecordError: its record breaks the data contract.
        """
        self._budget.next_sample()
        media = self._media(sample, fingerprints)
        turns = [
            Turn(role=message.role, parts=list(_parts(message.content, media)))
            for message in sample.record.messages
        ]
        return Exhibit(place=place, turns=turns, facts=_facts(sample))

    def _media(self, sample: Sample, fingerprints: Mapping[str, str]) -> dict[str, Iterator[Part]]:
        """For each placeholder, what stands in its places one after another."""
        spans: dict[str, list[int]] = {IMAGE: [], AUDIO: []}
        for i, span in enumerate(sample.spans):
            stream = STREAMS[span["stream"]].name
            if stream != "text":
                spans[IMAGE if stream.startswith("image") else AUDIO].append(i)
        alt = _caption(sample)
        return {
            placeholder: (self._shown(sample, i, fingerprints, alt) for i in found)
            for placeholder, found in spans.items()
        }

    def _shown(self, sample: Sample, span: int, fingerprints: Mapping[str, str], alt: str) -> Part:
        codes = span_codes(sample, span, fingerprints)
        if codes is None:
            frames = int(sample.spans[span]["length"])
            return Part(kind="absent", text=f"continuous speech features, {frames:,} frames")
        if refused := self._refused.get(codes.kind):
            return Part(kind="absent", text=refused)
        try:
            return self._picture(codes, alt) if codes.kind == "image" else self._sound(codes)
        except WeightsError as error:
            self._refused[codes.kind] = f"not decoded: {error}"
            return Part(kind="absent", text=self._refused[codes.kind])
        except OmniError as error:
            return Part(kind="absent", text=f"not decoded: {error}")

    def _picture(self, codes: Codes, alt: str) -> Part:
        picture = self._tokenizers.picture(codes)
        uri, thumb = picture_uri(picture), picture_uri(picture, _THUMB)
        if len(uri) + len(thumb) > self._budget.room:
            raise MediaError("the picture", "the report has no room left for it (--max-mb)")
        self._budget.take(uri + thumb)
        rows, columns = codes.grid
        return Part(
            kind="picture",
            text=alt,
            uri=uri,
            thumb=thumb,
            note=f"{len(codes.codes):,} codes ({columns} × {rows})",
            width=picture.width,
            height=picture.height,
        )

    def _sound(self, codes: Codes) -> Part:
        samples, rate = self._tokenizers.sound(codes)
        uri, kept_s = sound_uri(samples, rate, self._budget.room)
        self._budget.take(uri)
        length_s = len(samples) / rate
        note = f"{length_s:.1f} s, {len(codes.codes):,} codes"
        if kept_s < length_s:
            note = f"the first {kept_s:.1f} s of {note}"
        return Part(kind="sound", text="Speech", uri=uri, note=note)


def _parts(content: str, media: Mapping[str, Iterator[Part]]) -> Iterator[Part]:
    for piece in _PLACEHOLDER.split(content):
        if piece in media:
            nothing = Part(kind="absent", text="the sample holds no tokens for this placeholder")
            yield next(media[piece], nothing)
        elif text := piece.strip():
            shown, left_out = shortened(text)
            yield Part(kind="text", text=shown, left_out=left_out)


def _caption(sample: Sample) -> str:
    """The text of the conversation, for those who cannot see its pictures."""
    contents = (_PLACEHOLDER.sub(" ", m.content) for m in sample.record.messages)
    text, left_out = shortened(" ".join(" ".join(contents).split()), _ALT)
    return f"Picture decoded from codes; the text with it: {text}{' …' if left_out else ''}"


def _facts(sample: Sample) -> list[tuple[str, str]]:
    record = sample.record
    named = {"language": record.language, "license": record.license}
    named |= {name: record.provenance.get(name, "") for name in ("voice", "tts_engine", "origin")}
    facts = [(heading(name), cell(value)) for name, value in named.items() if value]
    measured = ((name, record.quality[name]) for name in QUALITY if name in record.quality)
    facts += [(heading(name), cell(float(value), name)) for name, value in measured]
    lengths = ", ".join(
        f"{len(stream):,} {heading(name)}" for name, stream in sample.streams.items()
    )
    return [*facts, ("tokens", lengths)]
