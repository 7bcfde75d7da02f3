"""Other people's tars come in whole: every run of members is one sample or one named reject."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import tracemalloc
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import pytest
import webdataset as wds
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.corpus import media
from omni_diffusion.corpus.media import (
    IMG2DATASET,
    MAX_MEMBER_BYTES,
    OURS,
    MediaLayout,
    MediaSample,
    read_media_tar,
    split_name,
)
from omni_diffusion.corpus.rejects import Reject, encode_rejects
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError, StorageError

Outcome = MediaSample | Reject
ANY = MediaLayout(fields={})
"""Wants nothing, so that every whole sample comes out, its members as `unused`."""


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar_of(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def read(folder: Path, data: bytes, layout: MediaLayout = IMG2DATASET) -> list[Outcome]:
    (folder / "x.tar").write_bytes(data)
    return list(read_media_tar(Storage(folder), "x.tar", layout))


def read_until_damage(
    folder: Path, data: bytes, layout: MediaLayout = IMG2DATASET
) -> tuple[list[Outcome], str | None]:
    """What comes out before the error, and the error's text."""
    (folder / "x.tar").write_bytes(data)
    found: list[Outcome] = []
    try:
        for outcome in read_media_tar(Storage(folder), "x.tar", layout):
            found.append(outcome)
    except CorpusError as error:
        assert error.path == str(folder / "x.tar")
        return found, str(error)
    return found, None


def fields_of(outcomes: Iterable[Outcome]) -> dict[str, dict[str, bytes]]:
    return {o.key: dict(o.fields) for o in outcomes if isinstance(o, MediaSample)}


def pair(key: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [member(f"{key}.jpg", f"jpg of {key}".encode()), member(f"{key}.txt", b"a caption")]


# --- layouts ---------------------------------------------------------------------------------


def test_tars_of_webdataset_are_read(tmp_path: Path) -> None:
    """Its writer puts a PAX header with a clock time before every member."""
    with wds.TarWriter(str(tmp_path / "x.tar")) as writer:
        for i in range(3):
            key = f"{i:03d}" + "long" * 40 * i
            writer.write({"__key__": key, "jpg": bytes([i]), "txt": f"ä{i}", "json": {"i": i}})
    found = fields_of(read_media_tar(Storage(tmp_path), "x.tar", IMG2DATASET))
    assert len(found) == 3
    for i, fields in enumerate(found.values()):
        assert fields["image"] == bytes([i]) and fields["caption"] == f"ä{i}".encode()
        assert json.loads(fields["metadata"]) == {"i": i}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_img2dataset_and_blip3o_layouts_are_read(tmp_path: Path, form: int) -> None:
    img2dataset = [member("000000012.json", b"{}"), *pair("000000012")]
    blip3o = pair("sa/223750")
    found = read(tmp_path, tar_of(*img2dataset, *blip3o, form=form))
    assert fields_of(found) == {
        "000000012": {
            "image": b"jpg of 000000012",
            "caption": b"a caption",
            "metadata": b"{}",
        },
        "sa/223750": {"image": b"jpg of sa/223750", "caption": b"a caption"},
    }


def test_our_layout_numbers_pictures_and_sounds(tmp_path: Path) -> None:
    data = {"json": b"{}", "image0.jpg": b"0", "image1.png": b"1", "audio0.flac": b"a", "md5": b"?"}
    (sample,) = read(tmp_path, tar_of(*(member(f"k.{e}", d) for e, d in data.items())), OURS)
    assert isinstance(sample, MediaSample)
    assert sample.fields == {"record": b"{}", "image0": b"0", "image1": b"1", "audio0": b"a"}
    assert sample.names["image1"] == "k.image1.png"
    assert sample.unused == ("k.md5",)


def test_members_keep_their_own_names_and_the_best_extension_wins(tmp_path: Path) -> None:
    data = tar_of(member("A.PNG", b"png"), member("A.JPG", b"jpg"), member("A.Txt", b"t"))
    (sample,) = read(tmp_path, data)
    assert isinstance(sample, MediaSample)
    assert sample.names == {"image": "A.JPG", "caption": "A.Txt"}
    assert (sample.fields["image"], sample.unused) == (b"jpg", ("A.PNG",))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_tars_are_read_and_their_sums_checked(tmp_path: Path, compress) -> None:
    plain = tar_of(*pair("a"), *pair("b"))
    packed = compress(plain)
    assert read(tmp_path, packed) == read(tmp_path, plain)
    half = len(plain) // 1024 * 512
    assert read(tmp_path, compress(plain[:half]) + compress(plain[half:])) == read(tmp_path, plain)
    for cut in range(1, len(packed)):
        assert read_until_damage(tmp_path, packed[:cut])[1] is not None
    for at in range(len(packed) - 8, len(packed)):  # gzip keeps its sums there, xz its footer
        flipped = bytearray(packed)
        flipped[at] ^= 1
        found, error = read_until_damage(tmp_path, bytes(flipped))
        assert error or found == read(tmp_path, plain)
        assert error or compress is bz2.compress


# --- what does not belong into a tar of media ------------------------------------------------


@pytest.mark.parametrize(
    ("stray", "reason"),
    [
        (member("b.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "not a regular file"),
        (member("b.jpg", type=tarfile.LNKTYPE, linkname="a.jpg"), "not a regular file"),
        (member("b.jpg", type=tarfile.FIFOTYPE), "not a regular file"),
        (member("b.jpg", type=tarfile.CHRTYPE), "not a regular file"),
        (member("/b.jpg", b"x"), "name leaves the archive"),
        (member("../b.jpg", b"x"), "name leaves the archive"),
        (member("a/../../b.jpg", b"x"), "name leaves the archive"),
        (member("b", b"x"), "missing member"),
        (member("b.gif", b"x"), "missing member"),
        (member("._b.jpg", b"x"), "missing member"),
        (member(".hidden", b"x"), "missing member"),
        (member("a.jpg", b"again"), "scattered sample"),
    ],
)
def test_a_stray_member_is_a_reject_and_harms_no_neighbour(tmp_path, stray, reason) -> None:
    data = tar_of(*pair("a"), *pair("z"), stray, *pair("c"))
    found = read(tmp_path, data)
    (reject,) = (o for o in found if isinstance(o, Reject))
    assert (reject.key, reject.reason) == (split_name(stray[0].name)[0], reason)
    assert fields_of(found) == fields_of(read(tmp_path, tar_of(*pair("a"), *pair("z"), *pair("c"))))


def test_a_sample_with_one_unusable_member_is_rejected_once(tmp_path: Path) -> None:
    link = member("a.txt", type=tarfile.SYMTYPE, linkname="b.txt")
    for members in ([*pair("a")[:1], link], [link, *pair("a")[:1]]):
        (reject,) = read(tmp_path, tar_of(*members))
        assert reject == Reject(key="a", stage="read", reason="not a regular file", detail="a.txt")


@pytest.mark.parametrize("twin", ["a.jpg", "a.JPG"])
def test_a_member_that_stands_twice_rejects_its_sample(tmp_path: Path, twin: str) -> None:
    (reject,) = read(tmp_path, tar_of(*pair("a"), member(twin, b"another")))
    assert isinstance(reject, Reject) and reject.reason == "duplicate member"
    assert twin in reject.detail


def test_a_member_that_is_too_large_is_a_reject(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(media, "MAX_MEMBER_BYTES", 20)
    data = tar_of(*pair("a"), member("b.jpg", b"x" * 21), *pair("c"))
    for packed in (data, gzip.compress(data)):
        found = read(tmp_path, packed)
        assert [o.reason for o in found if isinstance(o, Reject)] == ["member too large"]
        assert list(fields_of(found)) == ["a", "c"]


def test_folders_are_no_members(tmp_path: Path) -> None:
    folders = [member(n, type=tarfile.DIRTYPE) for n in ("./", "a/", "../", "/x")]
    found = read(tmp_path, tar_of(*folders[:2], *pair("a/1"), *folders[2:], *pair("a/2")))
    assert list(fields_of(found)) == ["a/1", "a/2"] and len(found) == 2


def test_a_name_that_is_not_utf8_can_be_written_into_the_rejects(tmp_path: Path) -> None:
    data = tar_of(member("gr\udcfcn.gif", b"x"), form=tarfile.GNU_FORMAT)
    (reject,) = read(tmp_path, data)
    assert isinstance(reject, Reject) and reject.key == "gr\\xfcn"
    assert encode_rejects([reject])


NAMES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "", "", "d/", "../", "/", "ü/"]),
    st.sampled_from(["a", "b", "c", "", "x" * 120]),
    st.sampled_from(["", ".jpg", ".JPG", ".txt", ".json", ".image0.jpg", ".seg.png", "."]),
).filter(lambda name: name.strip("/") and not name.endswith("/"))
TYPES = st.sampled_from([tarfile.REGTYPE] * 8 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])


@given(
    entries=st.lists(st.tuples(NAMES, TYPES, st.binary(max_size=600)), max_size=12),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    layout=st.sampled_from([ANY, OURS, IMG2DATASET]),
)
def test_every_run_of_members_comes_out_exactly_once(
    tmp_path_factory, entries, form, layout
) -> None:
    written = [
        member(name, data if kind == tarfile.REGTYPE else b"", type=kind)
        for name, kind, data in entries
    ]
    found = read(tmp_path_factory.mktemp("tar"), tar_of(*written, form=form), layout)

    kept = [(info, data) for info, data in written if not info.isdir()]
    runs = [(key, list(run)) for key, run in groupby(kept, lambda m: split_name(m[0].name)[0])]
    assert [o.key for o in found] == [key for key, _ in runs]
    for (_, run), outcome in zip(runs, found, strict=True):
        if isinstance(outcome, MediaSample):
            contents = {info.name: data for info, data in run}
            assert sorted([*outcome.names.values(), *outcome.unused]) == sorted(contents)
            for name, data in outcome.fields.items():
                assert data == contents[outcome.names[name]]
    if layout is ANY:  # then nothing but a named fault makes a reject
        faults = [o.reason for o in found if isinstance(o, Reject)]
        assert "missing member" not in faults


# --- damage ----------------------------------------------------------------------------------

WHOLE = [*pair("a"), member("b.txt", b"n" * 700), *pair("c")]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_a_truncated_tar_never_gives_a_wrong_sample(tmp_path: Path, form: int) -> None:
    members = [member(i.name, d, mtime=1.5 if form else 0) for i, d in WHOLE]
    data = tar_of(*members, form=form)
    whole = read(tmp_path, data)
    end = len(data.rstrip(b"\0")) + 511 & ~511  # where the end mark begins
    assert [type(o).__name__ for o in whole] == ["MediaSample", "Reject", "MediaSample"]
    for block in range(0, end + 513, 512):
        for cut in {block - 1, block, block + 1, block + 200} - {-1}:
            found, error = read_until_damage(tmp_path, data[:cut])
            assert found == whole[: len(found)]
            if cut < end + 512:
                assert error and len(found) < len(whole), cut
            else:  # one zero block already says that the archive ends here
                assert not error and found == whole


def test_a_flipped_header_never_gives_a_wrong_sample(tmp_path: Path) -> None:
    data = tar_of(*WHOLE, form=tarfile.USTAR_FORMAT)
    whole = read(tmp_path, data)
    headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    assert len(headers) == len(WHOLE)
    noticed = 0
    for header in headers:
        for at in range(header, header + 512):
            flipped = bytearray(data)
            flipped[at] ^= 1 << at % 8
            found, error = read_until_damage(tmp_path, bytes(flipped))
            assert found == whole[: len(found)]
            assert error or found == whole
            noticed += error is not None
    assert noticed > len(headers) * 500  # the rest are bits of the checksum's own padding


@pytest.mark.parametrize("header", range(1, len(WHOLE)))
def test_a_header_that_was_zeroed_is_not_taken_for_the_end(tmp_path: Path, header: int) -> None:
    data = bytearray(tar_of(*WHOLE, form=tarfile.USTAR_FORMAT))
    starts = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    data[starts[header] : starts[header] + 512] = bytes(512)
    assert "more data after the end mark" in (read_until_damage(tmp_path, bytes(data))[1] or "")


def test_archives_that_were_glued_together_are_not_read_in_part(tmp_path: Path) -> None:
    data = tar_of(*pair("a")) + tar_of(*pair("b"))
    assert "more data after the end mark" in (read_until_damage(tmp_path, data)[1] or "")


@pytest.mark.parametrize("size", [2**31, 8**11 - 1, MAX_MEMBER_BYTES, 2**60, 2**80, -1, -512])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, b"?"])
def test_a_size_that_is_not_there_costs_neither_memory_nor_time(tmp_path, size, kind) -> None:
    liar = tarfile.TarInfo("b.jpg")
    liar.size, liar.type = size, kind
    header = liar.tobuf(tarfile.GNU_FORMAT)
    data = tar_of(*pair("a"))[:2048] + header + b"x" * 1024
    tracemalloc.start()
    try:
        found, error = read_until_damage(tmp_path, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error and [o.key for o in found] in ([], ["a"])
    assert peak < 8 << 20


def test_memory_does_not_grow_with_the_length_of_an_archive(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(
        tar_of(*(member(f"{i}.jpg", pax_headers={"comment": "c" * 500}) for i in range(3000)))
    )
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_media_tar(Storage(tmp_path), "x.tar", IMG2DATASET))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 3000
    assert peak < 3 << 20


def test_a_sparse_map_that_lies_is_an_error(tmp_path: Path) -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.jpg"}
    data = tar_of(member("a.jpg", b"many\nnot a number\n", pax_headers=headers))
    assert read_until_damage(tmp_path, data)[1]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"x" * 511,
        b"x" * 5000,
        bytes(511),
        b"\xff\xd8\xff\xe0" * 600,
        b"PK\x03\x04" + bytes(600),
        b"\x1f\x8b",
        gzip.compress(b""),
        gzip.compress(b"not a tar"),
    ],
)
def test_what_is_not_a_tar_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CorpusError, match=r"x\.tar: "):
        read(tmp_path, data)


def test_an_archive_of_nothing_is_empty_and_a_missing_one_is_named(tmp_path: Path) -> None:
    assert read(tmp_path, tar_of()) == []
    with pytest.raises(StorageError, match=r"gone\.tar: there is no such file"):
        next(read_media_tar(Storage(tmp_path), "gone.tar", OURS))
