"""Token shards for users of other loaders: they are ordinary tars with one member a sample.

import webdataset as wds
from omni_diffusion.corpus.interop import from_webdataset
shards = "corpus/shards/{00000..00007}.tar"
for sample in wds.WebDataset(shards, shardshuffle=False).map(from_webdataset):
    print(sample.key, sample.streams["text"], sample.record.messages)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omni_diffusion.corpus.sample import EXTENSION, Sample, decode_sample
from omni_diffusion.errors import CorpusError


def from_webdataset(fields: Mapping[str, Any]) -> Sample:
    """The sample in one row of `webdataset.WebDataset` or `datasets.load_dataset("webdataset")`.

    Args:
        fields: `__key__`, `__url__` and the payload under `omni`.

    Raises:
        CorpusError: there is no such payload, or it is damaged (its CRC-32 is checked).
    """
    key, where = fields.get("__key__", "?"), fields.get("__url__", "webdataset row")
    if not isinstance(data := fields.get(EXTENSION), bytes):
        raise CorpusError(where, f"{key} has no member .{EXTENSION}: not a token shard")
    return decode_sample(str(key), data, where)
