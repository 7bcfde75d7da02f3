"""A record with its pictures and sounds, and its bytes: neighbouring members of one tar.

    KEY.json   KEY.image0.png   KEY.image1.jpg ...   KEY.audio0.flac ...

The record comes first, then its pictures and its sounds, each in the record's order; extensions
say what the bytes are. This is an ordinary WebDataset sample, and what `media.OURS` reads. A media
corpus has the files of a token corpus (sidecars, index, rejects, `corpus.json`), so the same
engine writes it, and `verify` and the audit read it; its fingerprints have the entry `media`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import xxhash
from isal.isal_zlib import crc32

from omni_diffusion.corpus import tar
from omni_diffusion.corpus.record import Record
from omni_diffusion.errors import CorpusError, RecordError

MEDIA = "media"
"""The fingerprint that media corpora have and token corpora have not."""

MEDIA_VERSION = "1"

_PICTURES = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
)
_SOUNDS = (
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"ID3", "mp3"),
    (b"\xff\xfb", "mp3"),
    (b"\xff\xf3", "mp3"),
)
_RIFF = {"image": (b"WEBP", "webp"), "audio": (b"WAVE", "wav")}


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaRecord:
    """One record with its media, still encoded: of a source, or of a media corpus.

    Attributes:
        key: unique where it comes from, see `record.check_key`.
        record: the conversation; `record.images` and `record.audios` name the media.
        images: the bytes of each picture's file, in the order of `record.images`.
        audios: the bytes of each sound's file, in the order of `record.audios`.
    """

    key: str
    record: Record
    images: tuple[bytes, ...] = ()
    audios: tuple[bytes, ...] = ()

    @property
    def content_hash(self) -> int:
        """64-bit XXH3 of all texts, pictures and sounds: equal contents, equal hash."""
        digest = xxhash.xxh3_64()
        texts = (message.content.encode() for message in self.record.messages)
        for part in (*texts, *self.images, *self.audios):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return digest.intdigest()


def is_media(fingerprints: Mapping[str, str]) -> bool:
    """Whether these are the fingerprints of a media corpus."""
    return MEDIA in fingerprints


def member_names(entry: MediaRecord) -> list[str]:
    """Names of the members of a record's pictures and sounds, in their order.

    Raises:
        RecordError: a medium is of no format that media corpora hold.
    """
    pictures = [f"image{i}.{_extension(entry, 'image', i)}" for i in range(len(entry.images))]
    sounds = [f"audio{i}.{_extension(entry, 'audio', i)}" for i in range(len(entry.audios))]
    return [f"{entry.key}.{name}" for name in (*pictures, *sounds)]


def encode_media(entry: MediaRecord) -> bytes:
    """All members of a record, with headers and padding.

    Raises:
        RecordError: see `member_names`; or the record does not have so many media.
    """
    for name in ("images", "audios"):
        files, named = getattr(entry, name), getattr(entry.record, name)
        if len(files) != len(named):
            raise RecordError(entry.key, name, f"names {len(named)} files, {len(files)} are there")
    names = [f"{entry.key}.json", *member_names(entry)]
    contents = [entry.record.to_json(), *entry.images, *entry.audios]
    return b"".join(
        piece
        for name, data in zip(names, contents, strict=True)
        for piece in (tar.member_header(name, len(data)), data, tar.padding(len(data)))
    )


def decode_media(
    key: str, data: bytes | memoryview, where: object = "sample", crc: int | None = None
) -> MediaRecord:
    """The inverse of `encode_media`.

    Args:
        key: the record's key.
        data: its members.
        where: file named in errors.
        crc: what the index says the CRC-32 of `data` is, where there is an index.

    Raises:
        CorpusError: the bytes are damaged, or not those that the index speaks of.
        RecordError: the record in them is not valid.
    """
    data = bytes(data)
    if crc is not None and crc32(data) != crc:
        raise CorpusError(where, f"{key}: CRC-32 {crc32(data):08x}, the index says {crc:08x}")
    members = list(tar.walk(data + tar.END, where))
    contents = [data[m.offset : m.offset + m.size] for m in members]
    names = [member.name for member in members]
    if not names or names[0] != f"{key}.json":
        raise CorpusError(where, f"{key}: begins with member {names[:1]}, not {key}.json")
    record = Record.from_json(contents[0], key)
    pictures, media = len(record.images), contents[1:]
    images, audios = tuple(media[:pictures]), tuple(media[pictures:])
    entry = MediaRecord(key=key, record=record, images=images, audios=audios)
    counted = len(audios) == len(record.audios) and len(images) == pictures
    if not counted or names[1:] != member_names(entry):
        raise CorpusError(where, f"{key}: members {', '.join(names[1:])} do not fit its record")
    return entry


def record_size(key: str, data: bytes, where: object) -> int:
    """Bytes of the record that stands after the header at the beginning of some bytes.

    Args:
        key: the record's key.
        data: from the first member's header on; 512 bytes at least.
        where: file named in errors.

    Raises:
        CorpusError: there is no header of this record.
    """
    digits = data[124:135]
    if len(data) >= tar.BLOCK and digits and not digits.strip(b"01234567"):
        size = int(digits, 8)
        if data[: tar.BLOCK] == tar.member_header(f"{key}.json", size):
            return size
    raise CorpusError(where, f"{key}: no header of {key}.json where the index says")


def _extension(entry: MediaRecord, kind: str, number: int) -> str:
    """What a file is by its first bytes."""
    data = (entry.images if kind == "image" else entry.audios)[number]
    known: Sequence[tuple[bytes, str]] = _PICTURES if kind == "image" else _SOUNDS
    riff, name = _RIFF[kind]
    if data[:4] == b"RIFF" and data[8:12] == riff:
        return name
    for magic, extension in known:
        if data.startswith(magic):
            return extension
    formats = ", ".join(sorted({name, *(extension for _, extension in known)}))
    raise RecordError(entry.key, f"{kind}s.{number}", f"is none of {formats}")
