"""A sample as it is shown: its conversation, with its pictures and sounds.

Those of a token corpus are made of its codes; a media corpus holds them as files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from omni_diffusion.audit.report.encoding import Budget, picture_uri, sound_uri
from omni_diffusion.audit.report.gallery import Place
from omni_diffusion.audit.report.text import cell, heading, shortened, size
from omni_diffusion.corpus.media_record import MediaRecord, decode_media, is_media
from omni_diffusion.corpus.record import AUDIO, IMAGE, Record
from omni_diffusion.corpus.sample import STREAMS, Sample, decode_sample, span_fault
from omni_diffusion.corpus.sidecar import QUALITY, tar_name
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError, MediaError, OmniError, WeightsError
from omni_diffusion.tokenize.codes import Codes, span_codes
from omni_diffusion.tokenize.image.preprocess import load_picture
from omni_diffusion.tokenize.media import MediaTokenizers
from omni_diffusion.tokenize.speech.audio import load_audio, resample

_PLACEHOLDER = re.compile(f"({re.escape(IMAGE)}|{re.escape(AUDIO)})")
_THUMB = 128
"""Pixels of the small pictures at the head of a report."""

_ALT = 160
_LARGEST = 512
"""Pixels of a side of a picture file's copy on the page."""

_RATE_HZ = 24_000
"""Of a sound file's copy."""

Medium = TypeVar("Medium")


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


def read_sample(
    storage: Storage, place: Place, fingerprints: Mapping[str, str]
) -> Sample | MediaRecord:
    """Read one sample out of its shard, by one request.

    Args:
        storage: where the shard is.
        place: of the sample.
        fingerprints: of the shard: they tell tokens from media.

    Raises:
        CorpusError: its bytes are not there or not the ones that the index speaks of.
    """
    name = tar_name(place.shard)
    data = storage.read(name, place.offset, place.offset + place.size)
    if len(data) != place.size:
        reason = f"ends before the sample {place.key!r} does"
        raise CorpusError(storage.path(name), reason)
    if is_media(fingerprints):
        return decode_media(place.key, data, storage.path(name), place.crc)
    sample = decode_sample(place.key, data, storage.path(name), place.crc)
    if fault := span_fault(sample):
        raise CorpusError(storage.path(name), f"sample {place.key!r} {fault}")
    return sample


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

    def exhibit(
        self, place: Place, sample: Sample | MediaRecord, fingerprints: Mapping[str, str]
    ) -> Exhibit:
        """What is shown of a sample.

        Args:
            place: of the sample.
            sample: its contents.
            fingerprints: of the tokenizers that made its codes.

        Raises:
            RecordError: its record breaks the data contract.
        """
        self._budget.next_sample()
        if isinstance(sample, MediaRecord):
            media = self._files(sample)
        else:
            media = self._codes(sample, fingerprints)
        turns = [
            Turn(role=message.role, parts=list(_parts(message.content, media)))
            for message in sample.record.messages
        ]
        return Exhibit(place=place, turns=turns, facts=_facts(sample))

    def _files(self, sample: MediaRecord) -> dict[str, Iterator[Part]]:
        """For each placeholder, the files that stand in its places one after another."""
        alt = _caption(sample.record)
        return {
            IMAGE: (self._attempt("image", self._picture_file, i, alt) for i in sample.images),
            AUDIO: (self._attempt("speech", self._sound_file, a, "") for a in sample.audios),
        }

    def _codes(self, sample: Sample, fingerprints: Mapping[str, str]) -> dict[str, Iterator[Part]]:
        """For each placeholder, what stands in its places one after another."""
        spans: dict[str, list[int]] = {IMAGE: [], AUDIO: []}
        for i, span in enumerate(sample.spans):
            stream = STREAMS[span["stream"]].name
            if stream != "text":
                spans[IMAGE if stream.startswith("image") else AUDIO].append(i)
        alt = _caption(sample.record)
        return {
            placeholder: (self._shown(sample, i, fingerprints, alt) for i in found)
            for placeholder, found in spans.items()
        }

    def _shown(self, sample: Sample, span: int, fingerprints: Mapping[str, str], alt: str) -> Part:
        codes = span_codes(sample, span, fingerprints)
        if codes is None:
            frames = int(sample.spans[span]["length"])
            return Part(kind="absent", text=f"continuous speech features, {frames:,} frames")
        make = self._picture_of_codes if codes.kind == "image" else self._sound_of_codes
        return self._attempt(codes.kind, make, codes, alt)

    def _attempt(
        self, kind: str, make: Callable[[Medium, str], Part], medium: Medium, alt: str
    ) -> Part:
        """A medium; or why there is none."""
        if refused := self._refused.get(kind):
            return Part(kind="absent", text=refused)
        try:
            return make(medium, alt)
        except WeightsError as error:
            self._refused[kind] = f"not decoded: {error}"
            return Part(kind="absent", text=self._refused[kind])
        except OmniError as error:
            return Part(kind="absent", text=f"not decoded: {error}")

    def _picture_of_codes(self, codes: Codes, alt: str) -> Part:
        rows, columns = codes.grid
        note = f"{len(codes.codes):,} codes ({columns} × {rows})"
        return self._picture(self._tokenizers.picture(codes), alt, note)

    def _picture_file(self, data: bytes, alt: str) -> Part:
        picture = load_picture(data)
        note = f"{picture.width} × {picture.height}, {size(len(data))}"
        picture.thumbnail((_LARGEST, _LARGEST))
        return self._picture(picture, alt, note)

    def _sound_of_codes(self, codes: Codes, _alt: str) -> Part:
        samples, rate = self._tokenizers.sound(codes)
        return self._sound(samples, rate, f"{len(codes.codes):,} codes")

    def _sound_file(self, data: bytes, _alt: str) -> Part:
        sound = load_audio(data)
        samples = resample(sound.channel("mean"), sound.sample_rate_hz, _RATE_HZ)
        return self._sound(samples, _RATE_HZ, f"{sound.sample_rate_hz:,} Hz, {size(len(data))}")

    def _picture(self, picture: Image, alt: str, note: str) -> Part:
        uri, thumb = picture_uri(picture), picture_uri(picture, _THUMB)
        if len(uri) + len(thumb) > self._budget.room:
            raise MediaError("the picture", "the report has no room left for it (--max-mb)")
        self._budget.take(uri + thumb)
        return Part(
            kind="picture",
            text=alt,
            uri=uri,
            thumb=thumb,
            note=note,
            width=picture.width,
            height=picture.height,
        )

    def _sound(self, samples: NDArray[np.float32], rate: int, about: str) -> Part:
        uri, kept_s = sound_uri(samples, rate, self._budget.room)
        self._budget.take(uri)
        length_s = len(samples) / rate
        note = f"{length_s:.1f} s, {about}"
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


def _caption(record: Record) -> str:
    """The text of the conversation, for those who cannot see its pictures."""
    contents = (_PLACEHOLDER.sub(" ", m.content) for m in record.messages)
    text, left_out = shortened(" ".join(" ".join(contents).split()), _ALT)
    return f"Picture; the text with it: {text}{' …' if left_out else ''}"


def _facts(sample: Sample | MediaRecord) -> list[tuple[str, str]]:
    record = sample.record
    named = {"language": record.language, "license": record.license}
    named |= {name: record.provenance.get(name, "") for name in ("voice", "tts_engine", "origin")}
    facts = [(heading(name), cell(value)) for name, value in named.items() if value]
    measured = ((name, record.quality[name]) for name in QUALITY if name in record.quality)
    facts += [(heading(name), cell(float(value), name)) for name, value in measured]
    if isinstance(sample, MediaRecord):
        return facts
    lengths = ", ".join(
        f"{len(stream):,} {heading(name)}" for name, stream in sample.streams.items()
    )
    return [*facts, ("tokens", lengths)]
