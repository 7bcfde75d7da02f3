"""Where model weights come from: a local folder or file, or a name on the Hugging Face hub.

Only safetensors and `torch.load(weights_only=True)` are read; nothing from a checkpoint is run.
torch is imported where tensors are: whoever only asks where a file lies does not wait for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from omni_diffusion.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

MODEL_FILES = ("*.safetensors", "*.json", "*.pt", "*.bin", "*.mvn", "*.yaml")
TOKENIZER_FILES = ("tokenizer*.json", "vocab.json", "merges.txt", "*.tiktoken")

DEMO = "demo"
"""Name under which the small tokenizers that ship in this package are asked for."""


def resolve_weights(
    name_or_path: str | os.PathLike[str], patterns: Sequence[str] = MODEL_FILES
) -> Path:
    """Local folder that holds the weights called `name_or_path`.

    Args:
        name_or_path: a folder or file on this machine, or a hub name such as `showlab/magvitv2`
            (looked up in the local hub cache first, downloaded otherwise).
        patterns: which files of a hub repository are wanted.

    Returns:
        An existing folder (or the file itself, where a file was named).

    Raises:
        WeightsError: neither exists; the message says what to download and where to put it.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    name = str(name_or_path)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise WeightsError(f"{name}: no such file or folder, and not a hub name (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise WeightsError(
            f"{name}: not in the local hub cache and the hub cannot be reached "
            f"({type(error).__name__}). On a machine with network run "
            f"`hf download {name} --local-dir {name.split('/')[1]}`, copy the folder here "
            f"and give its path instead of the name."
        ) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one `.safetensors`, `.pt` or `.bin` file, on the CPU.

    Args:
        path: the file, or the `.index.json` of a checkpoint that is spread over several.

    Raises:
        WeightsError: a file cannot be read or holds something else than named tensors, or an
            index and its files do not agree.
    """
    import torch

    if path.name.endswith(".index.json"):
        return _load_shards(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path}: cannot be read as weights: {error}") from error
    if not isinstance(loaded, dict) or not all(
        isinstance(t, torch.Tensor) for t in loaded.values()
    ):
        raise WeightsError(f"{path}: not a flat table of named tensors")
    return loaded


def _load_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of the files beside an index; each key must lie where the index says."""
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        by_file: dict[str, set[str]] = {}
        for key, file in weight_map.items():
            by_file.setdefault(file, set()).add(key)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index}: cannot be read as an index of weights: {error}") from error
    tensors: dict[str, Tensor] = {}
    for file, expected in by_file.items():
        if not isinstance(file, str) or Path(file).name != file or file.endswith(".index.json"):
            raise WeightsError(f"{index}: {file!r} is not the name of a file of weights beside it")
        found = load_tensors(index.parent / file)
        if found.keys() != expected:
            key = min(found.keys() ^ expected)
            raise WeightsError(f"{index}: does not agree with {file} about {key}")
        tensors |= found
    return tensors


def load_into(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    source: object,
    ignore: Iterable[str] = (),
) -> None:
    """Copy `tensors` into `module`, refusing any missing, extra or mis-shaped key.

    Args:
        module: built in its final layout; floating tensors are converted to its dtypes.
        tensors: key to tensor, keys as in `module.state_dict()`.
        source: named in the error.
        ignore: key prefixes of the checkpoint that the module deliberately does not use.

    Raises:
        WeightsError: lists (up to eight of) the keys at fault, with both shapes.
    """
    prefixes = tuple(ignore)
    expected = module.state_dict()
    found = {k: t for k, t in tensors.items() if not (prefixes and k.startswith(prefixes))}
    faults = [f"missing {key}" for key in expected if key not in found]
    faults += [f"unexpected {key}" for key in found if key not in expected]
    faults += [
        f"{key}: checkpoint {list(found[key].shape)}, model {list(want.shape)}"
        for key, want in expected.items()
        if key in found and found[key].shape != want.shape
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise WeightsError(f"{source}: checkpoint does not fit the model: {shown}")
    module.load_state_dict(found)


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits over names, dtypes, shapes and bytes; the same in any key order."""
    import torch

    digest = xxhash.xxh3_64()
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
