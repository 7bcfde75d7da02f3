"""`corpus.json`: what a corpus is made of, in one file that a person can read."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from omni_diffusion.corpus.media_record import is_media
from omni_diffusion.corpus.sidecar import FORMAT_VERSION
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError

MANIFEST = "corpus.json"

NOT_TOKENS = (
    "holds pictures and sounds, not tokens: make a token corpus of it first (omni-diffusion "
    "tokenize, with source kind media_tars)"
)
"""Said of a media corpus by whoever needs tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The corpus as a whole. Everything in it follows from the shards and the recipe.

    Attributes:
        format_version: of shards, sidecars, index and this file.
        fingerprints: what made the tokens: `vocabulary`, `text`, `image`, `speech`, ...
        recipe_digest: SHA-256 of the effective recipe, or empty.
        shards: how many there are.
        rows: how many samples.
        rejects: how many records could not be used; records in = `rows` + `rejects`.
        lengths: rows of every stream in all samples together (`text_len`, ...).
        digest: SHA-256 over the numbers and digests of all shards, in order; of a subset, over
            the places and checksums of its rows (see `subset`).
        index_digest: SHA-256 of `index.parquet`.
        base: of a subset, the corpus that holds its shards (see `subset`); else empty, and left
            out of the file.
    """

    format_version: int = FORMAT_VERSION
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    recipe_digest: str = ""
    shards: int = 0
    rows: int = 0
    rejects: int = 0
    lengths: Mapping[str, int] = field(default_factory=dict)
    digest: str = ""
    index_digest: str = ""
    base: str = ""

    @property
    def is_media(self) -> bool:
        """Whether this corpus holds pictures and sounds, and no tokens yet."""
        return is_media(self.fingerprints)


def write_manifest(storage: Storage, manifest: Manifest) -> None:
    """Publish `corpus.json`, replacing an older one."""
    value = asdict(manifest)
    if not manifest.base:
        del value["base"]
    text = json.dumps(value | {"crc": _crc(value)}, indent=2, sort_keys=True) + "\n"
    storage.publish_bytes(text.encode(), MANIFEST, replace=True)


def read_manifest(storage: Storage) -> Manifest:
    """Read `corpus.json`.

    Raises:
        CorpusError: there is none, it is damaged, or of another format version.
    """
    path = storage.path(MANIFEST)
    if storage.size(MANIFEST) is None:
        reason = "there is no corpus here, or its job has not finished (no corpus.json)"
        raise CorpusError(storage.root, reason)
    try:
        value = json.loads(storage.read(MANIFEST))
        version, crc = value["format_version"], value.pop("crc")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorpusError(path, f"damaged: {error}") from None
    if version != FORMAT_VERSION:
        reason = f"format version {version!r}, this program reads {FORMAT_VERSION}"
        raise CorpusError(path, reason)
    if crc != _crc(value) or {"base", *value} != {f.name for f in fields(Manifest)}:
        reason = "damaged or edited: its values do not match its crc; run verify --rebuild-index"
        raise CorpusError(path, reason)
    return Manifest(**value)


def _crc(value: Mapping[str, Any]) -> int:
    """CRC-32 of the values in canonical form, so that layout and key order do not matter."""
    return zlib.crc32(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())
