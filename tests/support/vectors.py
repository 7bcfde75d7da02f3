"""Where the conformance vectors are: `OMNI_CONFORMANCE`, or the copy under `tests/conformance`."""

import os
from pathlib import Path

import pytest

DEFAULT = Path(__file__).parents[1] / "conformance" / "vectors"
ROOT = Path(os.environ.get("OMNI_CONFORMANCE") or DEFAULT)


def vector_set(name: str) -> Path:
    """Folder of one vector set; skips the calling test module where the root holds no such set."""
    folder = ROOT / name
    if not folder.is_dir():
        pytest.skip(f"{ROOT} holds no vector set {name!r}", allow_module_level=True)
    return folder
