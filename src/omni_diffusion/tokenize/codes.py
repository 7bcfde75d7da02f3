"""Codes of one picture or sound in an `.npz` file, with what made them.

codes        int32 [n], native ids of the tokenizer's code book
kind         "image" or "speech"
height       pictures: rows of the code grid (its width is n / height); 0 for speech
fingerprint  of the tokenizer
source       the file that was encoded
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from omni_diffusion.corpus.sample import STREAMS, Sample
from omni_diffusion.errors import MediaError

_FIELDS = ("codes", "kind", "height", "fingerprint", "source")


@dataclass(frozen=True, kw_only=True, eq=False)
class Codes:
    """See the module; `codes` is an int32 tensor `[n]`.

    Attributes:
        remarks: what seems odd about the source (silent, clipped), in words; not stored.
    """

    codes: Tensor
    kind: Literal["image", "speech"]
    height: int
    fingerprint: str
    source: str
    remarks: tuple[str, ...] = ()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a picture's codes."""
        return self.height, len(self.codes) // self.height

    def save(self, path: Path) -> None:
        """Write the file, replacing an older one."""
        buffer = io.BytesIO()
        values = {name: np.asarray(getattr(self, name)) for name in _FIELDS}
        np.savez(buffer, allow_pickle=False, **values)
        path.write_bytes(buffer.getvalue())


def span_codes(sample: Sample, span: int, fingerprints: Mapping[str, str]) -> Codes | None:
    """Codes of one picture or sound of a sample; None for text and continuous features.

    Args:
        sample: the sample.
        span: row of its span table.
        fingerprints: what made the tokens, by kind, as a corpus names it.
    """
    row = sample.spans[span]
    stream = STREAMS[row["stream"]].name
    if stream not in ("image256", "image512", "speech"):
        return None
    start, length = int(row["start"]), int(row["length"])
    kind: Literal["image", "speech"] = "speech" if stream == "speech" else "image"
    return Codes(
        codes=torch.from_numpy(sample.streams[stream][start : start + length].astype("int32")),
        kind=kind,
        height=int(row["height"]),
        fingerprint=fingerprints.get(kind, "(none)"),
        source=f"{sample.key}, span {span}",
    )


def load_codes(path: Path) -> Codes:
    """Read a file that `Codes.save` wrote.

    Raises:
        MediaError: absent, damaged, or not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            values = {name: archive[name] for name in _FIELDS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise MediaError(path, f"cannot be read as codes: {error}") from None
    codes, kind, height = values["codes"], str(values["kind"]), values["height"]
    if codes.dtype != np.int32 or codes.ndim != 1 or not len(codes):
        raise MediaError(path, f"codes are {codes.dtype}{list(codes.shape)}, not int32 [n]")
    if kind not in ("image", "speech") or height.ndim or height.dtype.kind != "i":
        raise MediaError(path, f"kind {kind!r} with height {height!r}")
    if kind == "image" and (height < 1 or len(codes) % height):
        raise MediaError(path, f"{len(codes)} codes do not fill {height} rows")
    return Codes(
        codes=torch.from_numpy(codes),
        kind="image" if kind == "image" else "speech",
        height=int(height),
        fingerprint=str(values["fingerprint"]),
        source=str(values["source"]),
    )
