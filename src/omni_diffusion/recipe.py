"""Recipes: YAML files that become frozen, typed configuration.

A recipe is a tree of `Recipe` classes. Reading one is strict: an unknown key, a wrong type, a
missing field or a key that stands twice is an error that names the file, the line, the key and the
nearest valid one. `a.b=c` overrides are read as YAML and checked the same way. The effective
recipe is saved beside what it produced, and its digest identifies it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from omni_diffusion.errors import RecipeError

R = TypeVar("R", bound="Recipe")

_MAX_BYTES = 1 << 20


class Recipe(BaseModel):
    """Base of all configuration: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )

    def to_yaml(self) -> str:
        """The effective recipe, every default spelled out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def digest(self) -> str:
        """SHA-256 of the effective recipe: equal settings, equal digest."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def load_recipe(path: str | os.PathLike[str], model: type[R], overrides: Sequence[str] = ()) -> R:
    """Read a recipe.

    Args:
        path: a YAML file.
        model: what it must become.
        overrides: `key.path=value` texts, applied in order.

    Raises:
        RecipeError: names the file, the key and, for a misspelt key, the nearest valid one.
    """
    text = _read(path)
    try:
        node = yaml.compose(text, Loader=_Loader)
        value = {} if node is None else _Loader.construct_all_of(node)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {_one_line(error)}") from None
    except RecursionError:
        raise RecipeError(f"{path}: not valid YAML: nested too deeply") from None
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: must hold keys and values, holds {type(value).__name__}")
    for override in overrides:
        _apply(value, override)
    try:
        # Strict in types, but JSON's view of them: a YAML list may become a tuple.
        return model.model_validate_json(json.dumps(value, allow_nan=True))
    except ValidationError as error:
        raise RecipeError(_explain(error, path, node, model)) from None
    except TypeError as error:
        raise RecipeError(f"{path}: {error}: write dates and the like in quotes") from None


def _read(path: str | os.PathLike[str]) -> str:
    file = Path(path)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise RecipeError(f"{path}: larger than 1 MiB: not a recipe")
        return file.read_text("utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text: {error}") from error


class _Loader(yaml.SafeLoader):
    """Safe YAML with two traps closed: `1e-4` is a number, and a key may not stand twice."""

    @classmethod
    def construct_all_of(cls, node: yaml.Node) -> Any:
        return cls("").construct_object(node, deep=True)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+"),
    "-+0123456789",
)


def _apply(value: dict[str, Any], override: str) -> None:
    """Set one `a.b=c` in a tree of plain values."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"override {override!r}: expected key=value or key.sub=value")
    try:
        new = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise RecipeError(f"override {override!r}: {_one_line(error)}") from None
    at: Any = value
    for i, key in enumerate(keys):
        last = i == len(keys) - 1
        if isinstance(at, list):
            if not key.isdigit() or int(key) >= len(at):
                where = ".".join(keys[:i])
                raise RecipeError(f"override {override!r}: {where} has entries 0..{len(at) - 1}")
            at, step = at, int(key)
            if last:
                at[step] = new
            at = at[step]
        elif isinstance(at, dict):
            if last:
                at[key] = new
            elif at.get(key) is None:
                at[key] = {}
            at = at[key]
        else:
            raise RecipeError(f"override {override!r}: {'.'.join(keys[:i])} holds a plain value")


def _explain(
    error: ValidationError, path: object, node: yaml.Node | None, model: type[Recipe]
) -> str:
    lines = []
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"])
        line = _line(node, fault["loc"])
        place = f"{path}:{line}" if line else str(path)
        lines.append(f"{place}: {where or 'recipe'}: {_reason(fault, model)}")
    return "\n".join(lines)


def _reason(fault: Any, model: type[Recipe]) -> str:
    if fault["type"] == "extra_forbidden":
        *parents, key = fault["loc"]
        valid = _fields(model, parents)
        near = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(sorted(valid))}"
        return f"unknown key; {hint}"
    if fault["type"] == "missing":
        return "is missing"
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{message}, got {fault['input']!r}"


def _fields(model: type[Recipe], parents: Sequence[int | str]) -> list[str]:
    """Valid keys at a place of the tree, following the types of the fields on the way."""
    models: list[type[Recipe]] = [model]
    for part in parents:
        annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        if annotations:
            models = [found for a in annotations for found in _models_in(a)]
    return sorted({name for m in models for name in m.model_fields})


def _models_in(annotation: Any) -> list[type[Recipe]]:
    if isinstance(annotation, type) and issubclass(annotation, Recipe):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]


def _line(node: yaml.Node | None, loc: Sequence[int | str]) -> int | None:
    """Line of the deepest part of `loc` that the file itself holds, from 1."""
    line = None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if pair is None:
                continue  # the name of a union's branch, or a missing key
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()
