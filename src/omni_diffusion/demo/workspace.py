"""A folder in which every command of the demo is typed as it stands in the documents."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import omni_diffusion
from omni_diffusion.errors import RecipeError

RECIPES = (
    "tokenize/demo.yaml",
    "sdvi/demo.yaml",
    "tokenize/sdvi-demo.yaml",
    "training/demo.yaml",
)
"""What the demo needs; the same files as at the top of the repository."""


def shipped_recipe(name: str) -> Path:
    """Where a recipe lies: in the repository, or where the wheel has put it.

    Raises:
        RecipeError: it is in neither place.
    """
    in_repository = Path(omni_diffusion.__file__).parents[2] / name
    if in_repository.is_file():
        return in_repository
    for file in importlib.metadata.files("omni-diffusion") or ():
        if str(file).endswith(f"share/omni-diffusion/{name}"):
            return Path(str(file.locate()))
    raise RecipeError(f"{name}: did not come with this installation of omni-diffusion")


def copy_recipes(folder: Path) -> None:
    """Put the recipes into the folder; those of an earlier run stay as the user left them.

    Raises:
        RecipeError: a recipe did not come with the installation.
    """
    for name in RECIPES:
        target = folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(shipped_recipe(name).read_bytes())
