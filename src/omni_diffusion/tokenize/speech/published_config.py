"""Sections of a published `config.json` as frozen dataclasses, with nothing overlooked.

A configuration key is one of four things: a size that the model takes, a setting for which the
code knows only one value, a setting that matters in training alone, or a mistake. The last is an
error here, because a misread size or an ignored switch gives a model that runs and is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from omni_diffusion.errors import WeightsError

Config = TypeVar("Config")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        WeightsError: it cannot be read or holds something else.
    """
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as a configuration: {error}") from error
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path}: holds {type(loaded).__name__}, not an object")
    return loaded


def subsection(raw: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """One object inside another, empty where it is left out.

    Raises:
        WeightsError: there is something else under that name.
    """
    section = raw.get(name, {})
    if not isinstance(section, dict):
        raise WeightsError(f"{where}: {name} is {section!r}, not an object")
    return section


def require(section: Mapping[str, Any], where: str, expected: Mapping[str, Any]) -> None:
    """Check settings for which the code knows only one value; absent ones have that value.

    Raises:
        WeightsError: names the setting, its value and the one that is supported.
    """
    for key, value in expected.items():
        if section.get(key, value) != value:
            raise WeightsError(f"{where}: {key} is {section[key]!r}, only {value!r} is supported")


def fill(
    config_class: type[Config],
    section: Mapping[str, Any],
    where: str,
    fixed: Mapping[str, Any] | None = None,
    unused: Collection[str] = (),
    **given: Any,
) -> Config:
    """Build a configuration from a section; absent keys keep the default, the published value.

    Args:
        config_class: a dataclass whose fields are named as in the section and have defaults.
        section: the published keys and values.
        where: file and section, named in errors.
        fixed: keys that are accepted with one value only.
        unused: keys without influence on inference.
        given: fields that come from elsewhere.

    Raises:
        WeightsError: an unknown key, a value of another type than the default, or another value
            than the only one supported.
    """
    fixed = fixed or {}
    require(section, where, fixed)
    sizes: dict[str, Any] = dict(given)
    defaults = config_class()
    names = {f.name for f in fields(config_class)} - set(given)  # type: ignore[arg-type]
    for key, value in section.items():
        if key in fixed or key in unused:
            continue
        if key not in names:
            raise WeightsError(f"{where}: unknown setting {key!r}")
        sizes[key] = _like(getattr(defaults, key), value, f"{where}: {key}")
    return config_class(**sizes)


def _like(default: Any, value: Any, where: str) -> Any:
    """Check `value` against the type of `default`; lists become tuples, whole numbers floats."""
    if isinstance(default, tuple) and isinstance(value, list) and value:
        return tuple(_like(default[0], item, where) for item in value)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default) or (isinstance(value, int | float) and value < 0):
        raise WeightsError(f"{where} is {value!r}, expected something like {default!r}")
    return value
