"""Records with media to samples with tokens."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.corpus.sample import SPAN, STREAMS, Sample, build_sample
from omni_diffusion.errors import CodeRangeError, MediaError, RecordError, TextError
from omni_diffusion.pipelines.coder import Coder, Codes, File, Pending
from omni_diffusion.pipelines.media_cache import MediaCache
from omni_diffusion.pipelines.read_ahead import read_ahead
from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe
from omni_diffusion.tokenize.chat import Modality, Piece, content_pieces, tokenize_pieces
from omni_diffusion.tokenize.image.preprocess import load_picture, to_pixels
from omni_diffusion.tokenize.image.tokenizer import ImageTokenizer
from omni_diffusion.tokenize.speech.audio import Waveform, load_audio, resample
from omni_diffusion.tokenize.speech.sensevoice import SpeechFeatures
from omni_diffusion.tokenize.speech.tokenizer import SpeechTokenizer
from omni_diffusion.tokenize.text import TextTokenizer

READ_AHEAD = 1
"""Batches that are read and decoded while one is encoded."""

_SIZES = {256: Modality.IMAGE_256, 512: Modality.IMAGE_512}
_GRID_HEIGHTS = {Modality.IMAGE_256: 16, Modality.IMAGE_512: 32}
_UNUSABLE = (RecordError, MediaError, TextError, CodeRangeError)


@dataclass(slots=True)
class _Draft:
    """A record on its way, cut into pieces."""

    item: MediaRecord
    pieces: list[Piece]


class TokenizeWorker:
    """Loads the tokenizers that a recipe names; those that no record needs stay unused.

    Args:
        recipe: what to make.

    Raises:
        WeightsError: a tokenizer cannot be loaded.
    """

    def __init__(self, recipe: TokenizeRecipe) -> None:
        # One thread count everywhere: sums in another order could move a code.
        torch.set_num_threads(max(1, int(recipe.run.ray.cpus_per_worker)))
        names, device = recipe.tokenizers, _device(recipe.tokenizers.device)
        self._recipe = recipe
        self._text = TextTokenizer.from_pretrained(names.text)
        images = ImageTokenizer.from_pretrained(names.image, device)
        speech = SpeechTokenizer.from_pretrained(names.speech, device)
        features = SpeechFeatures.from_pretrained(names.features) if names.features else None
        self._fingerprints = {
            "text": self._text.fingerprint,
            "image": images.fingerprint,
            "speech": speech.fingerprint,
        }
        if features:
            self._fingerprints["features"] = features.fingerprint
        self._coders: dict[Modality, Coder[Any]] = {
            modality: _picture_coder(images, pixels, self._cache(images.fingerprint, pixels))
            for pixels, modality in _SIZES.items()
        }
        self._coders[Modality.SPEECH] = _speech_coder(speech, self._cache(speech.fingerprint, 0))
        if features:
            self._coders[Modality.FEATURES] = _features_coder(features)

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """See `shard_work.Worker`."""
        return self._fingerprints

    def samples(self, items: Iterator[MediaRecord | Reject]) -> Iterator[Sample | Reject]:
        """See `shard_work.Worker`."""
        count = self._recipe.decode_threads
        with ThreadPoolExecutor(count) as threads:
            # One alone is the thread that reads ahead, so that nothing is handed over twice.
            pool = threads if count > 1 else None
            batches = (self._prepare(batch, pool) for batch in self._batches(items))
            for batch in read_ahead(batches, READ_AHEAD):
                yield from self._finish(batch)

    def commit(self) -> None:
        """See `shard_work.Worker`."""
        for coder in self._coders.values():
            coder.commit()

    def counts(self) -> dict[str, int]:
        """Media that were encoded and that were taken from the cache, by modality."""
        return {
            f"{modality.name.lower()}_{what}": getattr(coder, what)
            for modality, coder in self._coders.items()
            for what in ("encoded", "reused")
        }

    def _cache(self, fingerprint: str, pixels: int) -> MediaCache | None:
        if self._recipe.cache is None:
            return None
        namespace = f"{fingerprint}-{pixels}" if pixels else fingerprint
        return MediaCache(self._recipe.cache, namespace)

    def _batches(
        self, items: Iterator[MediaRecord | Reject]
    ) -> Iterator[list[MediaRecord | Reject]]:
        while batch := list(islice(items, self._recipe.batch)):
            yield batch

    def _prepare(
        self, batch: Sequence[MediaRecord | Reject], threads: ThreadPoolExecutor | None
    ) -> _Batch:
        """Cut the records into pieces and decode their media."""
        drafts = [self._draft(item) for item in batch]
        files: dict[Modality, list[File]] = {modality: [] for modality in self._coders}
        for draft in drafts:
            if isinstance(draft, _Draft):
                for piece in draft.pieces:
                    if piece.modality != Modality.TEXT:
                        files[piece.modality].append(_file(draft.item, piece))
        pending = {m: self._coders[m].prepare(wanted, threads) for m, wanted in files.items()}
        return _Batch(drafts, pending)

    def _draft(self, item: MediaRecord | Reject) -> _Draft | Reject:
        if isinstance(item, Reject):
            return item
        messages = [{"role": m.role, "content": m.content} for m in item.record.messages]
        counts = {"images": len(item.images), "audios": len(item.audios)}
        try:
            pieces = content_pieces(item.key, messages, **counts)
        except _UNUSABLE as error:
            return _reject(item, "validate", error)
        return _Draft(item, [self._resolved(piece) for piece in pieces])

    def _resolved(self, piece: Piece) -> Piece:
        """The piece with the modality that this recipe gives it."""
        sizes = self._recipe.pictures
        if piece.modality == Modality.IMAGE_512:
            return replace(piece, modality=_SIZES[sizes.question])
        if piece.modality == Modality.IMAGE_256:
            return replace(piece, modality=_SIZES[sizes.answer])
        if piece.modality == Modality.FEATURES and Modality.FEATURES not in self._coders:
            return replace(piece, modality=Modality.SPEECH)
        return piece

    def _finish(self, batch: _Batch) -> Iterator[Sample | Reject]:
        """Encode what is decoded and put the samples together, in order."""
        made = {m: iter(self._coders[m].finish(pending)) for m, pending in batch.pending.items()}
        for draft in batch.drafts:
            if isinstance(draft, Reject):
                yield draft
                continue
            pieces = [p for p in draft.pieces if p.modality != Modality.TEXT]
            media = [next(made[piece.modality]) for piece in pieces]
            if fault := next((m for m in media if isinstance(m, MediaError)), None):
                yield _reject(draft.item, "decode", fault)
                continue
            try:
                yield self._sample(draft, pieces, media)
            except _UNUSABLE as error:
                yield _reject(draft.item, "encode", error)

    def _sample(self, draft: _Draft, pieces: list[Piece], media: Sequence[Any]) -> Sample:
        audio_lengths = [0] * len(draft.item.audios)
        parts: dict[Modality, list[NDArray[Any]]] = {}
        for piece, codes in zip(pieces, media, strict=True):
            parts.setdefault(piece.modality, []).append(codes)
            if piece.modality in (Modality.SPEECH, Modality.FEATURES):
                audio_lengths[piece.media] = len(codes)
        text, table = tokenize_pieces(draft.pieces, self._text, audio_lengths)
        streams = {STREAMS[modality].name: np.concatenate(all_) for modality, all_ in parts.items()}
        record = draft.item.record
        if draft.item.audios and "duration_s" not in record.quality:
            quality = {**record.quality, "duration_s": _duration_s(draft.item.audios)}
            record = replace(record, quality=quality)
        return build_sample(draft.item.key, record, {"text": text, **streams}, _spans(table))


@dataclass(slots=True)
class _Batch:
    """Records between the two steps."""

    drafts: list[_Draft | Reject]
    pending: dict[Modality, list[Pending[Any]]]


def _spans(table: NDArray[np.int32]) -> NDArray[Any]:
    """The chat layout's table as the corpus stores it, with the heights of pictures."""
    spans = np.zeros(len(table), SPAN)
    for column, name in enumerate(("message", "role", "stream", "start", "length")):
        spans[name] = table[:, column]
    for modality, height in _GRID_HEIGHTS.items():
        spans["height"][spans["stream"] == modality] = height
    return spans


def _file(item: MediaRecord, piece: Piece) -> File:
    names = item.record.images if piece.modality in _GRID_HEIGHTS else item.record.audios
    files = item.images if piece.modality in _GRID_HEIGHTS else item.audios
    return File(files[piece.media], names[piece.media])


def _reject(item: MediaRecord, stage: str, error: Exception) -> Reject:
    """A reject whose reason can be counted: the error's first clause, numbers left out."""
    text = str(getattr(error, "reason", error))
    reason = re.sub(r"\d+(\.\d+)?", "N", re.split(r"[:;(]", text)[0]).strip()
    return Reject(key=item.key, stage=stage, reason=reason[:80], detail=str(error))


def _device(name: str) -> str:
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _picture_coder(
    tokenizer: ImageTokenizer, resolution: int, cache: MediaCache | None
) -> Coder[Tensor]:
    settings = tokenizer.preprocessing

    def decode(data: bytes, name: str) -> Tensor:
        return to_pixels(load_picture(data, settings, name), resolution, settings, name)

    def encode(pixels: Sequence[Tensor]) -> Sequence[Codes]:
        return list(tokenizer.encode(torch.stack(list(pixels))).numpy())

    return Coder(decode, encode, resolution // tokenizer.downsample_factor, cache)


def _speech_coder(tokenizer: SpeechTokenizer, cache: MediaCache | None) -> Coder[Waveform]:
    def decode(data: bytes, name: str) -> Waveform:
        return load_audio(data, name=name)

    def encode(waveforms: Sequence[Waveform]) -> Sequence[Codes]:
        return [codes.numpy() for codes in tokenizer.encode(list(waveforms))]

    return Coder(decode, encode, 0, cache)


def _features_coder(features: SpeechFeatures) -> Coder[Tensor]:
    def decode(data: bytes, name: str) -> Tensor:
        waveform = load_audio(data, name=name)
        rates = waveform.sample_rate_hz, features.sample_rate_hz
        samples = resample(waveform.channel("first"), *rates)
        return features.features(torch.from_numpy(samples))

    def encode(made: Sequence[Tensor]) -> Sequence[Any]:
        return [frames.numpy() for frames in made]

    return Coder(decode, encode, 0, None)


def _duration_s(sounds: Sequence[bytes]) -> float:
    """Seconds of sound, by the headers of files that are known to be whole."""
    infos = [soundfile.info(io.BytesIO(data)) for data in sounds]
    seconds: float = sum(info.frames / info.samplerate for info in infos)
    return round(seconds, 3)
