"""Which files a path means, in an order that no listing decides."""

from __future__ import annotations

from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from omni_diffusion.corpus.storage import Entry, Storage
from omni_diffusion.errors import SourceError, StorageError
from omni_diffusion.pipelines.sources.files import absolute, check_unchanged, find_files


def names(folder: Path, *paths: str) -> list[str]:
    found = find_files([f"{folder}/{path}" for path in paths], (".tar",))
    return [file.path.removeprefix(f"{folder}/") for file in found]


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for name in ["b/2.tar", "b/1.tar", "a/deep/3.tar", "0.tar", "a/4.txt", ".cache/5.tar"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["."], ["0.tar", "a/deep/3.tar", "b/1.tar", "b/2.tar"]),
        (["b"], ["b/1.tar", "b/2.tar"]),
        (["*/*.tar"], ["b/1.tar", "b/2.tar"]),
        (["**/*.tar"], ["0.tar", "a/deep/3.tar", "b/1.tar", "b/2.tar"]),
        (["b/[2-9].tar", "a"], ["b/2.tar", "a/deep/3.tar"]),
        (["a/4.txt"], ["a/4.txt"]),
    ],
)
def test_files_folders_and_globs(tars: Path, paths: list[str], expected: list[str]) -> None:
    assert names(tars, *paths) == expected


def test_the_order_of_a_listing_does_not_matter(tars: Path, monkeypatch) -> None:
    usual = names(tars, ".")
    walk = Storage._walk
    backwards = lambda *a: reversed(list(walk(*a)))  # noqa: E731
    monkeypatch.setattr(Storage, "_walk", backwards)
    assert names(tars, ".") == usual


def test_a_url_means_the_same_as_a_folder() -> None:
    memory = MemoryFileSystem()
    for name in ["b/2.tar", "b/1.tar", "0.tar"]:
        memory.pipe(f"/found-by-url/{name}", b"x")
    found = find_files("memory://found-by-url/*/*.tar", (".tar",))
    assert [file.path for file in found] == [
        "memory://found-by-url/b/1.tar",
        "memory://found-by-url/b/2.tar",
    ]
    assert Storage("memory://found-by-url").list() == [
        Entry("0.tar", 1),
        Entry("b/1.tar", 1),
        Entry("b/2.tar", 1),
    ]


@pytest.mark.parametrize("path", ["nowhere", "*.zip", "a/*.tar", "0.zip"])
def test_a_path_that_means_nothing_is_an_error(tars: Path, path: str) -> None:
    with pytest.raises(SourceError, match="there is no such"):
        names(tars, path)


def test_a_file_that_is_meant_twice_is_an_error(tars: Path) -> None:
    with pytest.raises(SourceError, match=r"1\.tar: is meant by two"):
        names(tars, "b", "b/1.tar")


def test_a_symbolic_link_keeps_its_name(tmp_path: Path) -> None:
    """The hub's cache names its files by links to nameless ones."""
    (tmp_path / "blob").write_bytes(b"x")
    (tmp_path / "train.tar").symlink_to(tmp_path / "blob")
    assert names(tmp_path, ".") == ["train.tar"]


def test_paths_are_the_same_from_every_folder(tars: Path, monkeypatch) -> None:
    monkeypatch.chdir(tars)
    assert absolute("b/../b/1.tar") == f"{tars}/b/1.tar"
    assert absolute("file:///x/y") == "/x/y"
    assert absolute("s3://bucket/x") == "s3://bucket/x"
    assert absolute("~/x") == f"{Path.home()}/x"


def test_a_changed_or_vanished_file_is_named(tars: Path) -> None:
    path = f"{tars}/0.tar"
    check_unchanged(path, 1)
    with pytest.raises(SourceError, match="has 1 bytes now"):
        check_unchanged(path, 2)
    Path(path).unlink()
    with pytest.raises(SourceError, match="is gone"):
        check_unchanged(path, 1)


def test_a_store_that_refuses_is_no_missing_file(tmp_path: Path) -> None:
    (tmp_path / "loop.tar").symlink_to(tmp_path / "loop.tar")
    with pytest.raises(StorageError, match="symbolic links"):
        find_files(f"{tmp_path}/loop.tar", (".tar",))
