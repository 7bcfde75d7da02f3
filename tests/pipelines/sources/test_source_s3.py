"""Sources on an object store: the same records, and refusals that are not taken for bad data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from omni_diffusion.errors import StorageError
from omni_diffusion.pipelines.sources import open_source
from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe
from omni_diffusion.recipe import load_recipe
from s3server import S3Server
from source_checks import read_all, source_of, told
from table4 import ROWS, TABLE4

RECIPES = Path(__file__).parents[3] / "tokenize"
NAMES = ("llava-onevision", "vqa-own", "emilia", "common-voice-17")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    made = S3Server()
    yield made
    made.close()


@pytest.fixture
def bucket(server: S3Server, tmp_path: Path, monkeypatch) -> Iterator[str]:
    """A bucket with tiny data sets, one of each kind that a URL can name."""
    import s3fs

    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem()
    name = f"bucket-{tmp_path.name.replace('_', '-')}"[:60].rstrip("-")
    store.mkdir(name)
    for data in NAMES:
        TABLE4[data].build(tmp_path / data)
        store.put(f"{tmp_path / data}", f"{name}/{data}", recursive=True)
    server.requests.clear()
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()


def source_on(root: str | os.PathLike[str], name: str) -> Any:
    paths = {
        "llava-onevision": [f"source.path={root}/llava-onevision/*/*.parquet"],
        "vqa-own": [f"source.path={root}/vqa-own/*.jsonl", f"source.media_root={root}/vqa-own"],
        "emilia": [f"source.path={root}/emilia"],
        "common-voice-17": [f"source.path={root}/common-voice-17/train.tsv"],
    }
    recipe = load_recipe(RECIPES / f"{name}.yaml", TokenizeRecipe, paths[name])
    return open_source(recipe.source)


@pytest.mark.parametrize("name", NAMES)
def test_a_bucket_gives_what_a_folder_gives(bucket: str, tmp_path: Path, name: str) -> None:
    found = read_all(source_on(bucket, name))
    assert told(found) == ["item"] * ROWS
    assert found == read_all(source_on(tmp_path, name))


@pytest.mark.parametrize("name", NAMES)
def test_a_refusal_is_raised_and_the_next_try_succeeds(
    bucket: str, server: S3Server, name: str
) -> None:
    source = source_on(bucket, name)
    (partition,) = source.partitions()
    files = {"vqa-own": r"images/1\.jpg", "common-voice-17": r"clips/cv_1\.mp3"}
    with (
        server.failing("GET", files.get(name, name), 403, "AccessDenied") as refused,
        pytest.raises(StorageError),
    ):
        list(source.read(partition))
    assert refused
    assert told(list(source.read(partition))) == ["item"] * ROWS


def test_a_picture_that_is_not_in_the_bucket_is_a_reject(bucket: str) -> None:
    import s3fs

    s3fs.S3FileSystem().rm_file(f"{bucket.removeprefix('s3://')}/vqa-own/images/1.jpg")
    assert told(read_all(source_on(bucket, "vqa-own"))) == ["item", "missing media", "item"]


def test_a_bucket_that_is_not_there_is_no_empty_source(bucket: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"kind": "media_tars", "path": f"{bucket}-typo/x/*.tar"}
    with pytest.raises(StorageError, match="no such"):
        list(source_of(tmp_path, **settings).partitions())
