"""Where the conformance vectors are: `OMNI_CONFORMANCE`, or the copy beside this file."""

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("OMNI_CONFORMANCE") or Path(__file__).parent / "vectors")


def vector_set(name: str) -> Path:
    """Folder of one vector set, or a skip where the chosen root does not hold that set."""
    folder = ROOT / name
    if not folder.is_dir():
        pytest.skip(f"{ROOT} holds no vector set {name!r}")
    return folder
