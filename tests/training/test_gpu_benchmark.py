"""The accelerator benchmark runs, and claims nothing where there is no accelerator."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu.py"


def figures(*arguments: str) -> dict:
    command = [sys.executable, str(SCRIPT), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("machine")["cores"] >= 1
    return found


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
def test_without_an_accelerator_nothing_is_claimed() -> None:
    assert figures() == {
        "device": None,
        "claim": "none: there is no accelerator on this machine",
    }


def test_the_same_code_runs_with_a_tiny_model() -> None:
    found = figures("--tiny")
    assert found["claim"].startswith("none")
    tiny = found["tiny"]
    assert tiny["useful_tokens_per_s"] > 0 and tiny["memory_mb"] > 0 and tiny["fill"] > 0.8
    assert tiny["kernel"] in tiny["kernels"] and tiny["trained"] == tiny["parameters"]
