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
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from omni_diffusion.errors import RecipeError

if TYPE_CHECKING:
    pass

R = TypeVar("R", bound="Recipe")

RECIPE = "recipe.yaml"
"""Name under which the effective recipe lies beside what it produced."""

_MAX_BYTES = 1 << 20
_MAX_VALUES = 100_000
"""Values of a recipe with every alias written out: aliases of aliases grow exponentially."""

_TAGS = {f"tag:yaml.org,2002:{t}" for t in ("str", "int", "float", "bool", "null", "map", "seq")}
_TEXT, _MERGE, _FLOAT = (f"tag:yaml.org,2002:{t}" for t in ("str", "merge", "float"))


class Recipe(BaseModel):
    """Base of all configuration: frozen, no unknown keys, no silent conversions.

    Fields are what YAML can say: numbers, text (a path is a `str`), truth values, literals, tuples,
    mappings with text keys, and other recipes.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )

    def to_yaml(self) -> str:
        """The effective recipe, every default spelled out."""
        value = self.model_dump(mode="json")
        text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        return text

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
    return parse_recipe(_read(path), path, model, overrides)


def parse_recipe(text: str, path: object, model: type[R], overrides: Sequence[str] = ()) -> R:
    """Read the text of a recipe; `path` is what errors call it. See `load_recipe`.

    Raises:
        RecipeError: as `load_recipe`.
    """
    node, value = _parse(text, path)
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: must hold keys and values, holds {type(value).__name__}")
    for override in overrides:
        _apply(value, override)
    try:
        # Strict in types, but JSON's view of them: a YAML list may become a tuple.
        return model.model_validate_json(json.dumps(value))
    except ValidationError as error:
        lines = [
            f"{_place(fault['loc'], path, node, overrides)}: "
            f"{'.'.join(map(str, fault['loc'])) or 'recipe'}: {_reason(fault, model)}"
            for fault in error.errors()
        ]
        raise RecipeError("\n".join(lines)) from None


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


def _parse(text: str, source: object) -> tuple[yaml.Node | None, Any]:
    """The nodes of a YAML text, which know their lines, and its value, which shares no parts."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            return None, None
        if _count(node, {}) > _MAX_VALUES:
            raise RecipeError(f"{source}: holds more than {_MAX_VALUES} values: not a recipe")
        # Aliases become copies: an override of one place must not reach the others.
        return node, json.loads(json.dumps(_Loader("").construct_object(node, deep=True)))
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: {_yaml_fault(error)}") from None
    except RecursionError:
        raise RecipeError(f"{source}: not valid YAML: nested too deeply") from None


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """Values in a node with every alias written out (a node inside itself counts as none)."""
    if id(node) not in counts:
        counts[id(node)] = 0
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        counts[id(node)] = 1 + sum(_count(part, counts) for part in parts)
    return counts[id(node)]


class _Loader(yaml.SafeLoader):
    """Safe YAML with its traps closed.

    `1e-4` is a number, a key is text and may not stand twice, and what JSON cannot say (dates,
    sets, bytes) is an error.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        shown = reprlib.repr(node.value) if isinstance(node, yaml.ScalarNode) else node.tag
        try:
            if node.tag not in _TAGS:
                raise ValueError
            if isinstance(node, yaml.ScalarNode):
                # JSON writes some characters as two halves; one half alone is an error.
                node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
            return super().construct_object(node, deep)
        except (ValueError, LookupError):
            problem = f"{shown} cannot be a value; a date and the like must stand in quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            problem = None
            if key.tag not in (_TEXT, _MERGE):
                shown = key.value if isinstance(key, yaml.ScalarNode) else key.tag
                problem = f"key {shown} is not text: put it in quotes"
            elif key.value in seen:
                problem = f"key {key.value!r} stands twice"
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes wherever `_Loader` would read something else."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # YAML folds line breaks, of which Unicode has several, in all but double quotes.
        return self.represent_scalar(_TEXT, data, style=None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        _FLOAT,
        re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def _apply(value: dict[str, Any], override: str) -> None:
    """Set one `a.b=c` in a tree of plain values."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"override {override!r}: expected KEY=VALUE")
    _, new = _parse(text, f"override {override!r}")
    at: Any = value
    for i, key in enumerate(keys):
        last = i == len(keys) - 1
        if isinstance(at, list):
            if not re.fullmatch("[0-9]{1,9}", key) or int(key) >= len(at):
                where = f"{'.'.join(keys[:i])} has {len(at)} entries, counted from 0"
                raise RecipeError(f"override {override!r}: {where}")
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


def _place(
    loc: Sequence[int | str], path: object, node: yaml.Node | None, overrides: Sequence[str]
) -> str:
    """Where a faulty value comes from: the last override of it, or a line of the file."""
    for override in reversed(overrides):
        keys = override.partition("=")[0].strip().split(".")
        if [str(part) for part in loc[: len(keys)]] == keys:
            return f"{path}, override {override!r}"
    line = _line(node, loc)
    return f"{path}:{line}" if line else str(path)


def _reason(fault: Any, model: type[Recipe]) -> str:
    if fault["type"] == "extra_forbidden":
        *parents, key = fault["loc"]
        valid = _fields(model, parents)
        near = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(sorted(valid))}"
        return f"unknown key; {hint}"
    if fault["type"] == "missing":
        return "is missing"
    if fault["type"] == "json_invalid":  # the JSON is our own: only its depth can be too much
        return "nested too deeply"
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{message}, got {reprlib.repr(fault['input'])}"


def _fields(model: type[Recipe], parents: Sequence[int | str]) -> list[str]:
    """Valid keys at a place of the tree, following the types of the fields on the way."""
    models: list[type[Recipe]] = [model]
    for part in parents:
        annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        deeper = [found for a in annotations for found in _models_in(a)]
        branch = [m for m in models if part == m.__name__ or part in _literals(m)]
        models = deeper or branch or models
    return sorted({name for m in models for name in m.model_fields})


def _models_in(annotation: Any) -> list[type[Recipe]]:
    if isinstance(annotation, type) and issubclass(annotation, Recipe):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]


def _literals(model: type[Recipe]) -> set[Any]:
    """Values that tell the branches of a union apart (`kind: Literal["a"]`)."""
    annotations = [field.annotation for field in model.model_fields.values()]
    return {value for a in annotations if get_origin(a) is Literal for value in get_args(a)}


def _line(node: yaml.Node | None, loc: Sequence[int | str]) -> int | None:
    """Line of the deepest part of `loc` that the file itself holds, from 1."""
    line = None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            # Backwards: merged keys (`<<`) come first in the node, and the last one holds.
            pair = next((p for p in reversed(node.value) if p[0].value == str(part)), None)
            if pair is None:
                continue  # the name of a union's branch, or a missing key
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _yaml_fault(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"not valid YAML in line {error.problem_mark.line + 1}: {error.problem}"
    return f"not valid YAML: {' '.join(str(error).split())}"
