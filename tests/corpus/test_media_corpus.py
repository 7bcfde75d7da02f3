"""Media corpora: an ordinary WebDataset, checked as strictly as tokens are."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from corpora import make_corpus
from media_jobs import picture, sound
from omni_diffusion.corpus import tar
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.index import compact
from omni_diffusion.corpus.media import OURS, MediaSample, read_media_tar
from omni_diffusion.corpus.media_corpus import MediaCorpus
from omni_diffusion.corpus.media_record import MediaRecord, decode_media, encode_media
from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.shard import write_shard
from omni_diffusion.corpus.sidecar import sidecar_name, tar_name
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.corpus.verify import rebuild_index, verify
from omni_diffusion.errors import CorpusError, RecordError

FINGERPRINTS = {"media": "1", "engine": "test-1", "rules": "none"}


def entry(key: str = "a", number: int = 1, images: int = 1, audios: int = 2) -> MediaRecord:
    """A record with media; its texts depend on the number."""
    content = f"{number} " + "<|image|>" * images + "<|audio|>" * audios
    record = Record.from_dict(
        {
            "messages": [{"role": "user", "content": content}],
            "images": [f"{i}.png" for i in range(images)],
            "audios": [f"{i}.flac" for i in range(audios)],
            "provenance": {"voice": f"v{number}"},
            "quality": {"voice_rate": 1.05, "attempts": 2},
        }
    )
    return MediaRecord(
        key=key,
        record=record,
        images=tuple(picture(number + i, ("PNG", "JPEG")[i % 2]) for i in range(images)),
        audios=tuple(sound(number + i, 0.1, ("FLAC", "WAV")[i % 2]) for i in range(audios)),
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for number in range(2):
        made = [entry(f"k{number}{i}", 5 * number + i, images=1 + i) for i in range(3)]
        write_shard(Storage(tmp_path), number, made, FINGERPRINTS)
    compact(Storage(tmp_path))
    return tmp_path


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 9))
def test_what_is_written_is_read(images: int, audios: int, number: int) -> None:
    made = entry("key", number, images, audios)
    data = encode_media(made)
    assert len(data) % tar.BLOCK == 0
    assert decode_media("key", data) == made


def test_a_stored_record_is_a_tar_of_its_own_and_others_read_the_shard(corpus: Path) -> None:
    """Bytes at (offset, size) and an end mark; `webdataset` and our own source see the same."""
    read = MediaCorpus(corpus)
    made = read.get("k12")
    assert made == entry("k12", 7, images=3)
    row = read.index.find("k12")
    start, size = int(read.index.offset[row]), int(read.index.size[row])
    data = (corpus / tar_name(1)).read_bytes()[start : start + size] + tar.END
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
    pictures = [f"image{i}.{e}" for i, e in enumerate(("png", "jpg", "png"))]
    members = ["json", *pictures, "audio0.flac", "audio1.wav"]
    assert names == [f"k12.{member}" for member in members]
    theirs = list(webdataset.WebDataset(str(corpus / tar_name(1)), shardshuffle=False))
    assert [sample["__key__"] for sample in theirs] == ["k10", "k11", "k12"]
    assert theirs[2]["image1.jpg"] == made.images[1]
    ours = list(read_media_tar(Storage(corpus), tar_name(1), OURS))
    assert all(isinstance(sample, MediaSample) for sample in ours)
    assert len(ours[2].fields) == 6  # type: ignore[union-attr]


def test_it_verifies_and_is_rebuilt_from_the_tars(corpus: Path) -> None:
    assert not verify(corpus, workers=1).problems
    before = (corpus / sidecar_name(0)).read_bytes()
    (corpus / sidecar_name(0)).unlink()
    rebuild_index(corpus)
    assert (corpus / sidecar_name(0)).read_bytes() == before
    assert not verify(corpus, workers=1).problems


@pytest.mark.parametrize("member", ["k01.json", "k01.image0.png", "k01.audio1.wav"])
def test_every_damaged_byte_is_found(corpus: Path, member: str) -> None:
    path = corpus / tar_name(0)
    with tarfile.open(path) as archive:
        info = archive.getmember(member)
        at = info.offset_data + info.size // 2
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert verify(corpus, workers=1).problems
    with pytest.raises(CorpusError, match="k01"):
        MediaCorpus(corpus).get("k01")
    assert MediaCorpus(corpus).get("k00").key == "k00"


def test_media_are_not_taken_for_tokens_nor_tokens_for_media(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="omni-diffusion tokenize"):
        Corpus(corpus)
    make_corpus(tmp_path / "tokens", [1])
    with pytest.raises(CorpusError, match="a corpus of tokens"):
        MediaCorpus(tmp_path / "tokens")
    with pytest.raises(CorpusError, match="no record has the key 'zz'"):
        MediaCorpus(corpus).get("zz")


def test_equal_contents_have_equal_hashes_and_no_others() -> None:
    one, same, other = entry("a", 1), entry("b", 1), entry("a", 2)
    assert one.content_hash == same.content_hash != other.content_hash


@pytest.mark.parametrize(
    ("images", "audios", "fault"),
    [
        ((b"no picture",), (), "images.0"),
        ((picture(1),), (b"MThd",), "audios.0"),
        ((), (), "images"),
    ],
)
def test_media_that_no_corpus_holds_are_named(
    images: tuple[bytes, ...], audios: tuple[bytes, ...], fault: str
) -> None:
    whole = entry(images=1, audios=len(audios))
    broken = MediaRecord(key="a", record=whole.record, images=images, audios=audios)
    with pytest.raises(RecordError, match=fault):
        encode_media(broken)
