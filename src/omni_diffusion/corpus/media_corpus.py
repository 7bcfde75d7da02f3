"""A finished media corpus: records with pictures and sounds by key, checked as they are read."""

from __future__ import annotations

import os
from collections.abc import Iterator

from omni_diffusion.corpus import tar
from omni_diffusion.corpus.index import Index
from omni_diffusion.corpus.manifest import Manifest, read_manifest
from omni_diffusion.corpus.media_record import MediaRecord, decode_media, record_size
from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.shard import short_read
from omni_diffusion.corpus.sidecar import tar_name
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.corpus.subset import shards_of
from omni_diffusion.errors import CorpusError

_FIRST_READ = 8 << 10
"""Most records are shorter."""


class MediaCorpus:
    """Random access to a media corpus; every record is one ranged read.

    Args:
        root: folder or URL of the corpus.

    Raises:
        CorpusError: there is no finished corpus, or it holds tokens.

    Attributes:
        manifest: the corpus as a whole.
        index: its rows.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.storage = Storage(root)
        self.manifest: Manifest = read_manifest(self.storage)
        if not self.manifest.is_media:
            raise CorpusError(self.storage.root, "is a corpus of tokens, not of media")
        self.shards = shards_of(self.storage, self.manifest)
        self.index = Index(self.storage)

    def __len__(self) -> int:
        return len(self.index)

    def get(self, key: str) -> MediaRecord:
        """One record by its key.

        Raises:
            CorpusError: no record has this key, or its bytes are damaged.
        """
        try:
            return self.record(self.index.find(key))
        except KeyError:
            raise CorpusError(self.storage.root, f"no record has the key {key!r}") from None

    def records(self) -> Iterator[Record]:
        """All records in the order of the index, without their media; their bytes go unchecked.

        Raises:
            CorpusError: a header is damaged.
            RecordError: a record is.
        """
        index = self.index
        rows = zip(
            index.column("key").to_pylist(),
            index.shard.tolist(),
            index.offset.tolist(),
            strict=True,
        )
        for key, shard, offset in rows:
            name = tar_name(shard)
            head = self.shards.read(name, offset, offset + _FIRST_READ)
            size = record_size(key, head, self.shards.path(name))
            if size > len(head) - tar.BLOCK:
                head += self.shards.read(name, offset + len(head), offset + tar.BLOCK + size)
            yield Record.from_json(head[tar.BLOCK : tar.BLOCK + size], key)

    def record(self, row: int) -> MediaRecord:
        """One record by its row.

        Raises:
            CorpusError: its bytes are not those that the index speaks of.
        """
        index, name = self.index, tar_name(int(self.index.shard[row]))
        key = str(index.column("key")[row].as_py())
        offset, size = int(index.offset[row]), int(index.size[row])
        data = self.shards.read(name, offset, offset + size)
        if len(data) != size:
            raise short_read(self.shards.path(name), offset, size)
        return decode_media(key, data, self.shards.path(name), int(index.crc[row]))
