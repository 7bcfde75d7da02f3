"""The demo from beginning to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from omni_diffusion.demo.examples import write_examples
from omni_diffusion.demo.page import write_page
from omni_diffusion.demo.steps import DATA, GENERATION, TRAINING, run_steps
from omni_diffusion.demo.workspace import copy_recipes

TRAINING_RECIPE = "training/demo.yaml"
LESSONS = {
    "corpora/demo-drawings": "tokenize/demo.yaml",
    "corpora/demo-words": "tokenize/demo.yaml",
    "corpora/demo-spoken": "tokenize/sdvi-demo.yaml",
}
"""What the model learns from, and the recipe of the corpus that it is a part of."""


def run_demo(folder: Path, say: Callable[[str], None]) -> Path:
    """Do what is not done yet, and write the page.

    Args:
        folder: everything goes there.
        say: called with lines for the user.

    Returns:
        The page.

    Raises:
        JobError: a step failed.
        KeyboardInterrupt: interrupted; what is done stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy_recipes(folder)
    run_steps(folder, (*DATA, *TRAINING), say)
    write_examples(folder, TRAINING_RECIPE, LESSONS)
    run_steps(folder, GENERATION, say)
    return write_page(folder)
