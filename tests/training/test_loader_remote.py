"""Corpora in an object store: the same batches; shards come once a pass, ahead of need."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError, OmniError
from omni_diffusion.training.loader import Loader
from omni_diffusion.training.opening import open_data
from omni_diffusion.training.passes import Position
from omni_diffusion.training.recipe import MaskingRecipe
from training_corpora import training_corpus
from training_fixtures import make_recipe

SHARDS = [12, 12, 12, 12, 12, 12]


@pytest.fixture(scope="module")
def s3():
    """An S3 server, with this process's environment pointing to it."""
    import s3fs

    from s3server import S3Server

    server, before = S3Server(), dict(os.environ)
    os.environ.update(server.environment())
    s3fs.S3FileSystem.clear_instance_cache()
    yield server
    os.environ.clear()
    os.environ.update(before)
    s3fs.S3FileSystem.clear_instance_cache()
    server.close()


@pytest.fixture(scope="module")
def stored(s3, tmp_path_factory) -> tuple[Path, str]:
    """A corpus on disk and the same one in a bucket."""
    import s3fs

    assert s3.url  # the bucket is made there
    folder = tmp_path_factory.mktemp("local") / "c"
    training_corpus(folder, SHARDS, ["t2i", "text", "tts"])
    s3fs.S3FileSystem().mkdir("training")
    remote = Storage("s3://training/c")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        remote.publish_bytes(path.read_bytes(), str(path.relative_to(folder)))
    return folder, remote.root


def recipe_for(root: object, cache: Path | None = None, **changes):
    sources = {"a": {"corpus": str(root)}}
    kept = {"folder": str(cache), "limit_mb": 1} if cache else None
    return make_recipe("", sources=sources, cache=kept, window_rows=8, **changes)


def test_batches_of_a_remote_corpus_are_those_of_a_local_one(s3, stored, tmp_path) -> None:
    folder, url = stored
    s3.requests.clear()
    local, remote = open_data(recipe_for(folder)), open_data(recipe_for(url, tmp_path))
    assert local.plan.digest == remote.plan.digest
    with Loader(local, MaskingRecipe()) as one, Loader(remote, MaskingRecipe()) as other:
        for a, b in zip(one.batches(0, 20), other.batches(0, 20), strict=True):
            assert np.array_equal(a.inputs, b.inputs) and a.samples.keys == b.samples.keys


def test_the_next_group_is_fetched_while_the_first_is_read(s3, stored, tmp_path) -> None:
    """After one batch of group 0, the shards of group 1 come without anybody asking for them."""
    data = open_data(recipe_for(stored[1], tmp_path))
    order = data.plan.mixture.orders[0]
    window = data.plan.window(0)
    assert window.stop[0] < Position(0, 1, 0)
    expected = [f"{s:05d}.tar" for group in (0, 1) for s in order.shards_of(0, group)]
    s3.requests.clear()
    with Loader(data, MaskingRecipe()) as loader:
        loader.batch(0)
        shards, following = loader._shards, {(0, number) for number in order.shards_of(0, 1)}
        with shards._changed:
            assert shards._changed.wait_for(lambda: following <= set(shards._readers), 60)
    assert sorted(fetched(s3)) == sorted(expected)


def fetched(s3) -> list[str]:
    """Tars that were read, each as often as it was."""
    names = [re.search(r"(\d{5}\.tar)", r.target) for r in s3.requests if r.method == "GET"]
    return [name[1] for name in names if name]


def test_a_pass_fetches_each_shard_once(s3, stored, tmp_path) -> None:
    data = open_data(recipe_for(stored[1], tmp_path))
    s3.requests.clear()
    last = next(s for s in range(999) if data.plan.samples_before(s)[0].epoch == 1)
    with Loader(data, MaskingRecipe()) as loader:
        for _ in loader.batches(0, last - data.plan.steps_per_window):
            pass
    counts = {name: fetched(s3).count(name) for name in fetched(s3)}
    assert len(counts) == len(SHARDS) and set(counts.values()) == {1}


def test_a_shard_that_cannot_be_fetched_is_named(s3, stored, tmp_path) -> None:
    data = open_data(recipe_for(stored[1], tmp_path))
    refused = s3.failing("GET", r"\.tar", 403, "AccessDenied")
    where = r"source 'a', sample 's\d+', step 0: s3://training"
    with Loader(data, MaskingRecipe()) as loader, refused, pytest.raises(OmniError, match=where):
        loader.batch(0)


def test_a_remote_corpus_without_a_cache_is_refused(stored) -> None:
    with pytest.raises(CorpusError, match=r"source 'a' is remote.*data\.cache"):
        open_data(recipe_for(stored[1]))
