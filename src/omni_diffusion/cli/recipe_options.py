"""The argument with which every verb lets a recipe's keys be set."""

from __future__ import annotations

from typing import Any

import typer


def overrides(example: str, of: str = "recipe") -> Any:
    """Words KEY=VALUE behind the other arguments, one way for all verbs."""
    return typer.Argument(None, metavar="KEY=VALUE", help=f"Set {of} keys, e.g. {example}.")
