"""Written records with their pictures to spoken records with pictures and sounds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice

from omni_diffusion.corpus.media_record import MEDIA, MEDIA_VERSION, MediaRecord
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.pipelines.read_ahead import read_ahead
from omni_diffusion.pipelines.spoken_report import VOICES
from omni_diffusion.pipelines.synthesize_recipe import SynthesizeRecipe
from omni_diffusion.sdvi.engines import open_engine
from omni_diffusion.sdvi.pictures import picture_fault
from omni_diffusion.sdvi.produce import Made, Producer
from omni_diffusion.sdvi.recognisers import FasterWhisper
from omni_diffusion.sdvi.rewriter import CommandRewriter
from omni_diffusion.sdvi.rules import rules_version
from omni_diffusion.sdvi.speech_cache import SpeechCache
from omni_diffusion.sdvi.voices import Cast

READ_AHEAD = 1
"""Batches that are read, and their pictures looked at, while one is spoken."""


class SynthesizeWorker:
    """Loads the engine, and the recogniser if there is one.

    Args:
        recipe: what to make.
        trial: keep nothing and write nothing.

    Raises:
        RecipeError: a package is missing, or the recipe names voices that the engine has not.
        WeightsError: a model cannot be loaded.
        StorageError: the cache's store or the output refused.
    """

    def __init__(self, recipe: SynthesizeRecipe, *, trial: bool = False) -> None:
        self._batch = recipe.batch
        engine = open_engine(recipe.engine)
        listener = FasterWhisper(recipe.recogniser) if recipe.recogniser else None
        rewriter = CommandRewriter(recipe.rewriter) if recipe.rewriter else None
        self.cache = SpeechCache(None if trial else recipe.cache)
        self._producer = Producer(recipe, engine, self.cache, listener, rewriter)
        self._fingerprints = {
            MEDIA: MEDIA_VERSION,
            "engine": engine.fingerprint,
            "rules": rules_version(),
        }
        if listener:
            self._fingerprints["recogniser"] = listener.fingerprint
        cast = Cast(engine.voices, recipe.voices)
        parts = {cast.assistant: "assistant"} | dict.fromkeys(cast.users, "user")
        voices = [{**asdict(v), "part": parts.get(v.name, "held out")} for v in engine.voices]
        if not trial:
            text = json.dumps(voices, indent=2) + "\n"
            Storage(recipe.output).publish_bytes(text.encode(), VOICES)

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """See `shard_work.Worker`."""
        return self._fingerprints

    def samples(self, items: Iterator[MediaRecord | Reject]) -> Iterator[MediaRecord | Reject]:
        """See `shard_work.Worker`."""
        batches = (self._checked(batch) for batch in self._batches(items))
        for batch in read_ahead(batches, READ_AHEAD):
            written = [(o.key, o.record) for o in batch if isinstance(o, MediaRecord)]
            made = iter(self._producer.produce(written))
            for outcome in batch:
                yield outcome if isinstance(outcome, Reject) else _with_media(outcome, next(made))

    def commit(self) -> None:
        """See `shard_work.Worker`."""
        self.cache.commit()

    def _batches(
        self, items: Iterator[MediaRecord | Reject]
    ) -> Iterator[list[MediaRecord | Reject]]:
        while batch := list(islice(items, self._batch)):
            yield batch

    def _checked(self, batch: Sequence[MediaRecord | Reject]) -> list[MediaRecord | Reject]:
        """A record whose picture no tokenizer could read is refused before anybody speaks."""
        return [outcome if isinstance(outcome, Reject) else _seen(outcome) for outcome in batch]


def _seen(item: MediaRecord) -> MediaRecord | Reject:
    for name, data in zip(item.record.images, item.images, strict=True):
        if fault := picture_fault(data):
            detail = f"{name}: {fault.detail}"
            return Reject(key=item.key, stage="select", reason=fault.rule, detail=detail)
    return item


def _with_media(item: MediaRecord, made: Made | Reject) -> MediaRecord | Reject:
    if isinstance(made, Reject):
        return made
    assert made.key == item.key
    return MediaRecord(key=made.key, record=made.record, images=item.images, audios=made.audios)
