"""One corpus as training reads it: lengths at once, places and bytes when they are wanted.

`corpus.Corpus` holds keys and places of all rows; a hundred million of them take gigabytes. Here
only lengths stay in memory. Where a row's bytes lie is read from its row group of the index, a few
of which are kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from omni_diffusion.corpus.cache import ShardCache
from omni_diffusion.corpus.index import INDEX
from omni_diffusion.corpus.manifest import NOT_TOKENS, read_manifest
from omni_diffusion.corpus.sidecar import open_parquet
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.corpus.subset import shards_of
from omni_diffusion.errors import CorpusError
from omni_diffusion.training.lengths import LengthRule, read_lengths
from omni_diffusion.training.noise import word

_PLACES = ["key", "offset", "size", "crc"]
_KEPT_ROW_GROUPS = 32
"""Of 122,880 rows each: corpora up to four million rows read each of theirs once."""


class Place(NamedTuple):
    """Where the bytes of a row lie."""

    key: str
    shard: int
    offset: int
    size: int
    crc: int


class Source:
    """A finished corpus under the name that the recipe gives it.

    Attributes:
        name: in the recipe.
        word: its name as a number, for noise.
        storage: its folder or URL.
        shards: where its tars are: there, or for a subset in the corpus that it is a subset of.
        manifest: the corpus as a whole.
        lengths: of its rows.
    """

    def __init__(
        self,
        name: str,
        root: str,
        rule: LengthRule,
        *,
        longest: int,
        held_out: float = 0.0,
        samples: int = 0,
        cache: ShardCache | None = None,
    ) -> None:
        """Open a corpus and read the lengths of its rows; see `read_lengths` for the numbers.

        Raises:
            CorpusError: there is no finished corpus, its index does not fit, or it is remote and
                there is no cache.
        """
        self.name, self.word = name, np.uint64(word("source", name))
        self.storage = Storage(root)
        self.manifest = read_manifest(self.storage)
        if self.manifest.is_media:
            raise CorpusError(root, NOT_TOKENS)
        self.shards = shards_of(self.storage, self.manifest)
        if not (self.storage.is_local and self.shards.is_local) and cache is None:
            reason = f"source {name!r} is remote: say where its shards may be kept (data.cache)"
            raise CorpusError(root, reason)
        self._path = self.storage.path(INDEX)
        remote = cache if not self.storage.is_local else None
        local = remote.fetch(self.storage, INDEX) if remote else self._path
        with open_parquet(local, self._path):  # says what is wrong with a file that is not Parquet
            self._file = pq.ParquetFile(
                local, read_dictionary=["task"], page_checksum_verification=True
            )
        if (rows := self._file.metadata.num_rows) != self.manifest.rows:
            reason = f"index has {rows} rows, corpus.json says {self.manifest.rows}"
            raise CorpusError(root, f"{reason}; run verify --rebuild-index")
        self.lengths = read_lengths(
            self._file, self._path, rule, longest=longest, held_out=held_out, samples=samples
        )
        sizes = [
            self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)
        ]
        self._group_starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._kept: OrderedDict[int, list[Any]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def digest(self) -> str:
        """Changes whenever its samples do: of its tars, or of the rows that a subset picks."""
        return self.manifest.digest

    def places(self, rows: NDArray[np.int64]) -> list[Place]:
        """Places of some rows, in the order given. Safe for several threads.

        Raises:
            CorpusError: the index is damaged there.
        """
        groups = np.searchsorted(self._group_starts, rows, side="right") - 1
        shards = self.shards_of(rows).tolist()
        places = []
        with self._lock:
            for row, group, shard in zip(rows.tolist(), groups.tolist(), shards, strict=True):
                key, offset, size, crc = self._row_group(group)
                at = row - int(self._group_starts[group])
                number = int(self.lengths.shards[shard])
                place = (key[at].as_py(), number, int(offset[at]), int(size[at]), int(crc[at]))
                places.append(Place(*place))
        return places

    def shards_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """In which shard each row lies, as a position in `lengths.shards`."""
        return np.searchsorted(self.lengths.starts, rows, side="right") - 1

    def _row_group(self, number: int) -> list[Any]:
        if number not in self._kept:
            try:
                table = self._file.read_row_group(number, columns=_PLACES)
            except (pa.ArrowException, OSError) as error:
                raise CorpusError(self._path, f"damaged, or not Parquet: {error}") from None
            columns = [table[name].combine_chunks() for name in _PLACES]
            self._kept[number] = [columns[0], *map(np.from_dlpack, columns[1:])]
            while len(self._kept) > _KEPT_ROW_GROUPS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]
