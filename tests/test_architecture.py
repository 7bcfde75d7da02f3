"""The house stays as drawn: arrows point down, recipe folders are no packages, names are honest."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/omni_diffusion"


@pytest.mark.parametrize("folder", ["pipelines", "tokenize", "sdvi", "training"])
def test_recipe_folders_are_not_packages(folder: str) -> None:
    """A top-level package called `tokenize` would shadow the standard library."""
    assert not list((ROOT / folder).rglob("*.py"))


def test_arrows_only_point_down() -> None:
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_ground_floor_needs_neither_torch_nor_ray() -> None:
    modules = sorted(f"omni_diffusion.corpus.{p.stem}" for p in (PACKAGE / "corpus").glob("*.py"))
    program = f"import sys, {', '.join(modules)}; print({{'torch', 'ray'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_no_file_outgrows_a_sitting() -> None:
    long = {p.name: n for p in PACKAGE.rglob("*.py") if (n := p.read_text().count("\n")) > 400}
    assert long == {}


def test_nothing_runs_code_from_data() -> None:
    words = ("pickle.load", "weights_only=False", "trust_remote_code=True", "yaml.unsafe")
    found = [(p.name, w) for p in PACKAGE.rglob("*.py") for w in words if w in p.read_text()]
    assert found == []
