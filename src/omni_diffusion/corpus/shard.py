"""One shard: a tar of samples, its sidecar and its rejects, written whole or not at all.

The order of publication is rejects, tar, sidecar. A writer that dies before the last step leaves
no shard; the one that repeats its work finds its own earlier files, sees that they are the same
bytes, and goes on.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from omni_diffusion.corpus import tar
from omni_diffusion.corpus.media_record import MediaRecord, decode_media, encode_media
from omni_diffusion.corpus.record import check_key
from omni_diffusion.corpus.rejects import Reject, encode_rejects, rejects_name
from omni_diffusion.corpus.sample import (
    EXTENSION,
    Sample,
    decode_sample,
    encode_sample,
    span_fault,
)
from omni_diffusion.corpus.sidecar import (
    ShardInfo,
    encode_sidecar,
    media_row_of,
    row_of,
    sidecar_name,
    sidecar_table,
    tar_name,
)
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError, OmniError, RecordError


class ShardWriter:
    """Context manager that collects samples and publishes the shard when its block ends well.

        with ShardWriter(storage, 3, fingerprints={"text": "..."}) as shard:
            shard.add(sample)
            shard.reject(Reject(key="b", stage="decode", reason="truncated JPEG"))

    Args:
        storage: the corpus root.
        number: the shard's number.
        fingerprints: what makes the tokens; written into the sidecar.
        replace: take the place of a finished shard. It is removed first, sidecar ahead, so whoever
            looks in between finds no shard rather than half of each.
    """

    def __init__(
        self,
        storage: Storage,
        number: int,
        fingerprints: Mapping[str, str],
        *,
        replace: bool = False,
    ) -> None:
        self._storage, self._number, self._replace = storage, number, replace
        self._fingerprints = dict(sorted(fingerprints.items()))
        self._rows: dict[str, dict[str, Any]] = {}
        self._rejects: list[Reject] = []
        self._digest = hashlib.sha256()
        self._at = 0
        self._stack = ExitStack()

    def __enter__(self) -> ShardWriter:
        name = tar_name(self._number)
        self._path: Path = self._stack.enter_context(self._storage.temporary(name))
        self._file: IO[bytes] = self._stack.enter_context(self._path.open("wb"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._commit()
        except BaseException as fault:
            if not self._stack.__exit__(type(fault), fault, fault.__traceback__):
                raise
        else:
            self._stack.__exit__(kind, error, trace)

    def add(self, sample: Sample | MediaRecord) -> None:
        """Append one sample, or in a media corpus one record with its media.

        Raises:
            RecordError: the key is not usable, or stands in this shard already; a medium is of no
                format that media corpora hold.
            CorpusError: the sample is larger than 2 GiB.
        """
        check_key(sample.key)
        if sample.key in self._rows:
            raise RecordError(sample.key, "key", f"stands twice in shard {self._number}")
        data = encode_media(sample) if isinstance(sample, MediaRecord) else encode_sample(sample)
        if len(data) > 2**31 - 1:
            raise CorpusError(sample.key, f"a sample of {len(data)} bytes, the limit is 2 GiB")
        if isinstance(sample, MediaRecord):
            self._rows[sample.key] = media_row_of(sample, self._number, self._at, data)
            self._write(data)
            return
        self._write(tar.member_header(f"{sample.key}.{EXTENSION}", len(data)))
        self._rows[sample.key] = row_of(sample, self._number, self._at, data)
        self._write(data + tar.padding(len(data)))

    def reject(self, reject: Reject) -> None:
        """Account for a record that is not in the shard."""
        self._rejects.append(reject)

    @property
    def size(self) -> int:
        """Bytes of the tar so far."""
        return self._at

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._at += len(data)

    def _commit(self) -> None:
        self._write(tar.END)
        self._file.close()
        if self._replace:
            for name in (sidecar_name, tar_name, rejects_name):
                self._storage.remove(name(self._number))
        if self._rejects:
            data = encode_rejects(self._rejects)
            self._storage.publish_bytes(data, rejects_name(self._number))
        self._storage.publish(self._path, tar_name(self._number))
        info = ShardInfo(
            number=self._number,
            digest=self._digest.hexdigest(),
            size=self._at,
            rows=len(self._rows),
            rejects=len(self._rejects),
            fingerprints=self._fingerprints,
        )
        sidecar = encode_sidecar(sidecar_table(list(self._rows.values())), info)
        self._storage.publish_bytes(sidecar, sidecar_name(self._number))


def write_shard(
    storage: Storage,
    number: int,
    samples: Iterable[Sample],
    fingerprints: Mapping[str, str],
    rejects: Iterable[Reject] = (),
) -> None:
    """Write one whole shard; see `ShardWriter` for what can go wrong."""
    with ShardWriter(storage, number, fingerprints) as shard:
        for sample in samples:
            shard.add(sample)
        for reject in rejects:
            shard.reject(reject)


class ShardReader:
    """Random access to the members of one tar on this machine, through a memory map.

    Args:
        path: a local tar.
        name: what to call it in errors (the corpus's name for it), the path by default.

    Raises:
        CorpusError: it cannot be opened or is empty.
    """

    def __init__(self, path: str | Path, name: object = None) -> None:
        self.name = str(name or path)
        try:
            with Path(path).open("rb") as file:
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise CorpusError(self.name, "there is no such shard") from None
        except ValueError:
            raise CorpusError(self.name, "truncated: the file is empty") from None
        except OSError as error:
            raise CorpusError(self.name, f"cannot be opened: {error.strerror}") from error
        self._view = memoryview(self.data)

    def payload(self, offset: int, size: int) -> memoryview:
        """The bytes of one member, unchecked: a view of the map, not a copy.

        Raises:
            CorpusError: the place lies outside the tar.
        """
        data = self._view[offset : offset + size]
        if len(data) != size:
            raise short_read(self.name, offset, size)
        return data

    def members(self) -> Iterable[tar.Member]:
        """All members, walked and checked header by header."""
        return tar.walk(self.data, self.name)


def short_read(path: object, offset: int, size: int) -> CorpusError:
    """The error for a file that ends before its member does."""
    return CorpusError(path, f"truncated: no {size} bytes at {offset}")


def rescan(
    reader: ShardReader, number: int, on_fault: Callable[[OmniError], None]
) -> list[dict[str, Any]]:
    """Make the sidecar rows of a tar again from its bytes alone.

    Args:
        reader: the tar.
        number: the shard's number.
        on_fault: called for each sample that cannot be read; raise in it to stop at the first.
    """
    rows: dict[str, dict[str, Any]] = {}
    members = itertools.groupby(reader.members(), lambda member: member.name.partition(".")[0])
    for key, found in members:
        try:
            check_key(key)
            if key in rows:
                raise CorpusError(reader.name, f"key {key!r} stands twice")
            rows[key] = _row_again(reader, key, list(found), number)
        except OmniError as error:
            on_fault(error)
    return list(rows.values())


def _row_again(
    reader: ShardReader, key: str, members: list[tar.Member], number: int
) -> dict[str, Any]:
    """The sidecar row of neighbouring members with one key: a token sample, or a media record."""
    first, last = members[0], members[-1]
    if first.name == f"{key}.json":
        start = first.offset - tar.BLOCK
        end = last.offset + last.size + len(tar.padding(last.size))
        data = memoryview(reader.data)[start:end]
        return media_row_of(decode_media(key, data, reader.name), number, start, data)
    if first.name != f"{key}.{EXTENSION}":
        raise CorpusError(reader.name, f"member {first.name!r} is not KEY.{EXTENSION}")
    if len(members) > 1:
        raise CorpusError(reader.name, f"key {key!r} stands twice")
    data = memoryview(reader.data)[first.offset : first.offset + first.size]
    sample = decode_sample(key, data, reader.name)
    if fault := span_fault(sample):
        raise CorpusError(reader.name, f"member {first.name}: {fault}")
    return row_of(sample, number, first.offset, data)
