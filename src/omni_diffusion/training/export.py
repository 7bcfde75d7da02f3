"""The trained model as a checkpoint folder in the published layout, for generation and for others.

RUN/model/  config.json, *.safetensors with their index    as published (`backbone.checkpoint`)
            tokenizer.json, or the files it was read from  the text tokenizer
            omni-diffusion.json                            what the ids mean, and where from
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from omni_diffusion.backbone.checkpoint import save_checkpoint
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.tokenize.weights import DEMO, TOKENIZER_FILES, resolve_weights
from omni_diffusion.training.parallel import World

ABOUT: Final = "omni-diffusion.json"
"""Beside the weights: fingerprints of the tokenizers, and how the model came about."""

_BASE, _ADAPTER = ".base_layer", ".lora_"


def export_model(
    folder: Path,
    model: Dream,
    averages: Mapping[str, Tensor],
    *,
    tokenizer: str,
    about: Mapping[str, Any],
    dtype: torch.dtype,
    world: World,
) -> None:
    """Write the folder, complete or not at all. Every rank must call this.

    Args:
        folder: replaced if it exists.
        model: trained, sharded or not; adapters are merged into what is written.
        averages: values to write instead of the present ones, by name.
        tokenizer: of the recipe.
        about: for `omni-diffusion.json`.
        dtype: of the stored tensors.
        world: who writes.

    Raises:
        WeightsError: it cannot be written.
    """
    making = folder.with_name(folder.name + ".new")
    if world.first:
        for left in (making, making.with_name(making.name + ".partial")):
            shutil.rmtree(left, ignore_errors=True)
    save_checkpoint(
        merged(model, averages),
        model.config,
        making,
        speech=model.speech_config,
        dtype=dtype,
        writer=world.first,
    )
    if not world.first:
        return
    _copy_tokenizer(tokenizer, making)
    (making / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    making.rename(folder)


@torch.no_grad()
def merged(model: Dream, averages: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters under their published names, with what adapters have learned added to them."""
    values = {name: averages.get(name, p.detach()) for name, p in model.named_parameters()}
    found: dict[str, Tensor] = {}
    for name, value in values.items():
        if _ADAPTER in name:
            continue
        layer, base, kind = name.rpartition(f"{_BASE}.")
        if base and kind == "weight":
            first, second = (
                _whole(values[f"{layer}{_ADAPTER}{letter}.default.weight"]) for letter in "AB"
            )
            scaling: Any = model.get_submodule(layer).scaling
            value = value + _like(value, (second @ first) * scaling["default"])
        found[name.replace(f"{_BASE}.", ".")] = value
    return found


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(model: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor, sharded as another one is."""
    if isinstance(model, DTensor):
        return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)
    return tensor


def _copy_tokenizer(name: str, folder: Path) -> None:
    if name == DEMO:
        data = (resources.files("omni_diffusion.tokenize") / "demo/text.json").read_bytes()
        (folder / "tokenizer.json").write_bytes(data)
        return
    path = resolve_weights(name, TOKENIZER_FILES)
    if path.is_file():
        target = "qwen.tiktoken" if path.suffix == ".tiktoken" else "tokenizer.json"
        shutil.copyfile(path, folder / target)
        return
    for pattern in TOKENIZER_FILES:
        for file in path.glob(pattern):
            shutil.copyfile(file, folder / file.name)
