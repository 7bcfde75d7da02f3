"""Data sets of the Hugging Face hub, and local ones of the same make, through `datasets`.

`datasets` finds the files of a configuration and split. If they are parquet, `parquet.py` reads
them by row ranges; files of other formats are streamed, one partition each. Media are never
decoded here, so neither torchcodec nor ffmpeg is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pyarrow as pa
from huggingface_hub.errors import HfHubHTTPError

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.errors import SourceError, StorageError
from omni_diffusion.pipelines.sources.columns import RecordMaker
from omni_diffusion.pipelines.sources.parquet import ParquetSource
from omni_diffusion.pipelines.sources.partition import Partition
from omni_diffusion.pipelines.sources.planned import Part, PlannedSource
from omni_diffusion.pipelines.sources.recipe import HuggingFaceRecipe, ParquetRecipe
from omni_diffusion.pipelines.sources.rows import BrokenRow, Row


class HuggingFaceSource(PlannedSource):
    """One configuration and split of a data set."""

    def __init__(self, recipe: HuggingFaceRecipe) -> None:
        super().__init__(recipe.limit)
        self._recipe = recipe

    def parts(self) -> Iterator[Part]:
        """Row ranges of parquet files, or whole files of other formats."""
        builder = self._builder(self._recipe.revision)
        files = (builder.config.data_files or {}).get(self._recipe.split)
        if files is None:
            have = ", ".join(map(str, builder.config.data_files or {})) or "none"
            raise SourceError(f"{self._label}: no split {self._recipe.split}; there is {have}")
        if builder.name == "parquet":
            yield from self._parquet(tuple(sorted(files))).parts()
            return
        count = self._stream(builder).num_shards
        # A commit, so that a worker reads the same even if somebody uploads in the meantime.
        commit = next((origin[1] for origin in files.origin_metadata if len(origin) > 1), None)
        for number in range(count):
            spec = {"shard": number, "shards": count, "revision": commit}
            yield Part(f"{self._label} shard {number} of {count}", spec)

    def outcomes(self, partition: Partition) -> Iterator[MediaRecord | Reject]:
        """The records of one partition."""
        if "path" in partition.spec:
            return self._parquet((partition.spec["path"],)).outcomes(partition)
        return self._maker.outcomes(partition.number, self._rows(**partition.spec))

    @cached_property
    def _maker(self) -> RecordMaker:
        return RecordMaker(self._recipe)

    @property
    def _label(self) -> str:
        return " ".join(filter(None, (self._recipe.name, self._recipe.config)))

    def _parquet(self, files: tuple[str, ...]) -> ParquetSource:
        shared = set(ParquetRecipe.model_fields) & set(HuggingFaceRecipe.model_fields) - {"kind"}
        settings = {name: getattr(self._recipe, name) for name in shared}
        return ParquetSource(ParquetRecipe(kind="parquet", path=files, **settings))

    def _builder(self, revision: str | None) -> Any:
        name = self._recipe.name
        try:
            import datasets
        except ImportError as error:
            reason = "needs the package datasets: pip install 'omni-diffusion[datasets]'"
            raise SourceError(f"{name}: {reason}") from error
        try:
            return datasets.load_dataset_builder(name, self._recipe.config, revision=revision)
        except (ConnectionError, HfHubHTTPError) as error:
            way_out = f"hf download --repo-type dataset {name} --local-dir FOLDER"
            reason = f"cannot be reached ({error}); download it elsewhere with `{way_out}`"
            raise SourceError(f"{name}: {reason} and put FOLDER in its place") from error
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise SourceError(f"{self._label}: {error}") from error

    def _stream(self, builder: Any) -> Any:
        """The split as a stream of rows, with media as they lie in the files."""
        stream = builder.as_streaming_dataset(self._recipe.split)
        # Without known features nothing is decoded, and `decode` would complain.
        return stream.decode(False) if stream.features else stream

    def _rows(self, shard: int, shards: int, revision: str | None) -> Iterator[Row | BrokenRow]:
        stream = self._stream(self._builder(revision))
        if stream.num_shards != shards:
            changed = f"planned as {shards} files, now there are {stream.num_shards}"
            raise SourceError(f"{self._label}: {changed}")
        rows = iter(stream.shard(shards, shard))
        number = 0
        while True:
            origin = f"{self._recipe.name}/{self._recipe.split}-{shard}#{number}"
            try:
                row = next(rows, None)
            except (OSError, HfHubHTTPError) as error:
                raise StorageError(self._label, str(error)) from error
            except (ValueError, pa.ArrowException) as error:
                yield BrokenRow(origin, "damaged file", str(error))
                return
            if row is None:
                return
            yield Row(row, origin)
            number += 1
