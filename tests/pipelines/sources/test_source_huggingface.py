"""The hub's data sets: found by `datasets`, read without decoding anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.errors import SourceError
from source_checks import read_all, source_of, texts, told, write_jsonl

ASR: dict[str, Any] = {"kind": "huggingface", "tasks": ["asr"]}
ASR["columns"] = {"text": "text", "audio": "audio"}

CARD = """---
configs:
- config_name: clean
  data_files:
  - split: train.100
    path: clean/train.100/*
  - split: test
    path: clean/test/*
- config_name: other
  data_files:
  - split: train.100
    path: other/*
---
"""


def rows(count: int) -> list[dict[str, Any]]:
    sound = {"bytes": b"not decodable", "path": "a.flac"}
    return [{"text": f"text {i}", "audio": sound} for i in range(count)]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A data set as it lies on the hub: a card that names configurations and splits."""
    for name, count in {"clean/train.100/b": 5, "clean/train.100/a": 7, "clean/test/a": 1}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows(count)), tmp_path / f"{name}.parquet")
    (tmp_path / "README.md").write_text(CARD)
    return tmp_path


def test_parquet_is_cut_by_rows_whatever_the_files(published: Path) -> None:
    settings = ASR | {"name": str(published), "config": "clean", "split": "train.100"}
    source = source_of(published, records_per_shard=3, **settings)
    found = read_all(source)
    expected = [*range(7), *range(5)]
    assert [texts(o)[-1] for o in found] == [f"assistant: text {i}" for i in expected]
    assert isinstance(found[7], MediaRecord)
    assert found[7].record.provenance["origin"] == "b.parquet#0"
    assert [p.rows for p in source.partitions()] == [3, 3, 1, 3, 2]


def test_saved_data_sets_are_streamed_by_file(tmp_path: Path) -> None:
    """Audio stays as it is: decoding it would need torchcodec, and this audio cannot be decoded."""
    saved = datasets.Dataset.from_list(rows(10)).cast_column("audio", datasets.Audio())
    saved.save_to_disk(tmp_path / "saved", num_shards=2)
    source = source_of(tmp_path, name=f"{tmp_path}/saved", **ASR)
    found = read_all(source)
    assert [texts(o)[-1] for o in found] == [f"assistant: text {i}" for i in range(10)]
    assert len(list(source.partitions())) == 2
    assert isinstance(found[0], MediaRecord)
    assert found[0].audios == (b"not decodable",)
    limited = source_of(tmp_path, name=f"{tmp_path}/saved", limit=7, **ASR)
    assert read_all(limited) == found[:7]


def test_a_damaged_file_gives_what_is_before_the_damage(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"q": "a", "a": "b"}] * 3)
    with (tmp_path / "train.jsonl").open("ab") as file:
        file.write(b'{"q": "cut o')
    columns = {"question": "q", "answer": "a"}
    settings: dict[str, Any] = {"kind": "huggingface", "tasks": ["text"], "columns": columns}
    found = read_all(source_of(tmp_path, name=str(tmp_path), **settings))
    assert told(found)[-1] == "damaged file"
    assert set(told(found)[:-1]) <= {"item"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": "cleam"}, r"cleam.*clean.*other"),
        ({"config": "clean", "split": "train"}, r"no split train; there is train\.100, test"),
        ({"name": "/nowhere/at/all"}, "nowhere"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(
    published: Path, change: dict[str, Any], message: str
) -> None:
    settings = ASR | {"name": str(published), "config": "clean"} | change
    with pytest.raises(SourceError, match=message):
        list(source_of(published, **settings).partitions())


def test_without_a_network_the_error_says_what_to_download(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    source = source_of(tmp_path, name="openslr/librispeech_asr", config="clean", **ASR)
    command = "hf download --repo-type dataset openslr/librispeech_asr --local-dir FOLDER"
    with pytest.raises(SourceError, match=command):
        list(source.partitions())


def test_without_the_package_the_error_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SourceError, match=r"pip install 'omni-diffusion\[datasets\]'"):
        list(source_of(tmp_path, name=str(tmp_path), **ASR).partitions())


def test_other_sources_do_not_import_datasets_or_torch() -> None:
    program = (
        "import sys; from omni_diffusion.pipelines.sources import parquet, jsonl, tars, folders;"
        "from omni_diffusion.pipelines.sources import huggingface;"
        "print({'datasets', 'torch', 'ray', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
