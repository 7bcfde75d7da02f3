"""Published checkpoints in and out: safetensors shards with an index, one tensor at a time.

A checkpoint is a folder with `config.json` and either `model.safetensors` or several files that
`model.safetensors.index.json` assigns the keys to. Shapes are compared before anything is copied.
Then each tensor is read, converted and put in place alone, so that the model and its largest
tensor are all that is in memory; a model that is sharded over processes takes its own part of each.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from omni_diffusion.backbone.config import DreamConfig, rows_before_extension
from omni_diffusion.backbone.dream import Dream, keyed_normal, put_whole
from omni_diffusion.errors import WeightsError
from omni_diffusion.tokenize.speech.published_config import fill, read_json, subsection
from omni_diffusion.tokenize.speech.sanm import SenseVoiceConfig
from omni_diffusion.tokenize.speech.sensevoice import ENCODER_PREFIX, PROJECTOR_PREFIX, UNUSED_KEYS
from omni_diffusion.tokenize.vocabulary import Vocabulary
from omni_diffusion.tokenize.weights import resolve_weights

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONFIG = "config.json"
VOCABULARY_KEYS = ("model.embed_tokens.weight", "lm_head.weight")
"""Parameters with one row an id."""

_SPEECH_SIZES = "audio_config"
"""Where our `config.json` keeps the sizes of a speech encoder that is not the published one."""
_UNUSED = tuple(ENCODER_PREFIX + key for key in UNUSED_KEYS)
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def load_dream(
    name_or_path: str | os.PathLike[str],
    *,
    vocabulary: Vocabulary | None = None,
    speech: SenseVoiceConfig | Literal["held", "none"] = "held",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    lay_out: Callable[[Dream], None] | None = None,
) -> Dream:
    """Build the model that a checkpoint describes and fill it.

    Args:
        name_or_path: a folder, or a hub name such as `Dream-org/Dream-v0-Instruct-7B`.
        vocabulary: what the model shall speak. A checkpoint over Dream's own vocabulary is
            extended to it (see `load_checkpoint`); any other misfit is an error.
        speech: encoder and projector for continuous speech: those that the checkpoint holds, if
            any; none, so that speech is codes only; or, where it holds none, of these sizes: then
            both are fresh, and the encoder is still to be loaded from SenseVoice.
        device: where the model goes.
        dtype: of its parameters.
        seed: of fresh rows and projectors.
        lay_out: called on the model before it has memory, to shard it.

    Raises:
        WeightsError: files are absent, damaged, or do not fit the model or the vocabulary.
    """
    folder = resolve_weights(name_or_path)
    config = DreamConfig.from_json(folder / CONFIG)
    held = any(key.startswith(ENCODER_PREFIX) for key in _layout(folder))
    if vocabulary is not None:
        if vocabulary.size > config.vocab_size:
            config = replace(config, vocab_size=vocabulary.size)
        config.check_vocabulary(vocabulary)
    speech_config = None
    if speech == "held":
        speech_config = _speech_config(folder) if held else None
    elif speech != "none":
        speech_config = speech
    with torch.device("meta"):
        model = Dream(config, speech_config)
    model = model.to(dtype)
    if lay_out is not None:
        lay_out(model)
    model = model.to_empty(device=device)
    learned = None if vocabulary is None else rows_before_extension(vocabulary)
    fresh = () if held else (ENCODER_PREFIX, PROJECTOR_PREFIX)
    load_checkpoint(model, folder, learned_rows=learned, fresh=fresh, seed=seed)
    return model


@torch.no_grad()
def load_checkpoint(
    model: Dream,
    folder: Path,
    *,
    learned_rows: int | None = None,
    fresh: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Fill a model that is already allocated, sharded or not, from a checkpoint.

    With `learned_rows`, a checkpoint of fewer rows than the model's vocabulary is extended: of the
    embedding and of the output layer that many rows are kept, and every further row becomes the
    mean of those plus normal noise of `initializer_range`. So no new id starts likelier than the
    average old one, and no two new ids start alike.

    Args:
        model: of the final layout. Its dtypes and devices stay.
        folder: the checkpoint.
        learned_rows: rows of the checkpoint's vocabulary that mean something; None refuses to
            extend.
        fresh: prefixes of keys that the checkpoint need not have; they are drawn anew.
        seed: of everything fresh.

    Raises:
        WeightsError: lists (up to eight of) the keys that are missing, unexpected or of another
            shape, or says how the vocabularies differ.
    """
    layout = _layout(folder)
    targets = model.state_dict()
    unused = _UNUSED if model.speech_config else (ENCODER_PREFIX, PROJECTOR_PREFIX)
    layout = {k: file for k, file in layout.items() if not k.startswith(unused)}
    drawn = [key for key in targets if key not in layout and key.startswith(tuple(fresh))]
    missing = [f"missing {key}" for key in targets if key not in layout and key not in drawn]
    faults = missing + [f"unexpected {key}" for key in layout if key not in targets]
    extended: set[str] = set()
    for key, shape in _shapes(layout):
        if key in targets and shape != tuple(targets[key].shape):
            if key in VOCABULARY_KEYS and shape[1:] == tuple(targets[key].shape)[1:]:
                _check_rows(folder, shape[0], len(targets[key]), learned_rows)
                extended.add(key)
            else:
                faults.append(f"{key}: checkpoint {list(shape)}, model {list(targets[key].shape)}")
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise WeightsError(f"{folder}: checkpoint does not fit the model: {shown}")
    scale = model.config.initializer_range
    for key, tensor in _tensors(layout):
        if key in extended:
            assert learned_rows is not None
            tensor = _extend(key, tensor, learned_rows, len(targets[key]), scale, seed)
        put_whole(targets[key], tensor)
    for key in drawn:
        fresh_tensor = keyed_normal(key, tuple(targets[key].shape), seed) * scale
        if "norm" in key:
            fresh_tensor = torch.full(targets[key].shape, float(key.endswith("weight")))
        put_whole(targets[key], fresh_tensor)


@torch.no_grad()
def save_checkpoint(
    tensors: Mapping[str, Tensor],
    config: DreamConfig,
    folder: Path,
    *,
    speech: SenseVoiceConfig | None = None,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_bytes: int = 5_000_000_000,
    writer: bool = True,
) -> None:
    """Write a checkpoint in the published layout; the folder appears when it is complete.

    Args:
        tensors: `model.state_dict()`. Tensors sharded over processes are gathered one at a time,
            for which every process must call this.
        config: sizes of the language model.
        folder: must not exist yet.
        speech: sizes of the speech encoder, where the model has one.
        dtype: of the stored tensors.
        max_shard_bytes: a file is closed before it grows beyond this, unless one tensor does.
        writer: whether this process writes; exactly one must.

    Raises:
        WeightsError: the folder exists already or cannot be written, or there is no name for the
            dtype.
    """
    if dtype not in _DTYPES:
        raise WeightsError(f"{folder}: checkpoints hold floats of 16 or 32 bits, not {dtype}")
    if writer and folder.exists():
        raise WeightsError(f"{folder}: exists already; a checkpoint is never overwritten")
    partial = folder.with_name(folder.name + ".partial")
    shards = _shards(tensors, dtype.itemsize, max_shard_bytes)
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    with _as_weights_error(partial):
        if writer:
            partial.mkdir(parents=True, exist_ok=True)
        for name, keys in zip(names, shards, strict=True):
            _write_shard(partial / name, keys, tensors, dtype, writer)
        if writer:
            size = sum(t.numel() for t in tensors.values()) * dtype.itemsize
            where = {key: n for n, keys in zip(names, shards, strict=True) for key in keys}
            index = {"metadata": {"total_size": size}, "weight_map": where}
            (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n")
            described = json.loads(config.to_json())
            if speech is not None:
                described[_SPEECH_SIZES] = asdict(speech)
            (partial / CONFIG).write_text(json.dumps(described, indent=2) + "\n")
            partial.rename(folder)


def _layout(folder: Path) -> dict[str, Path]:
    """Which file holds each key."""
    if (folder / INDEX).is_file():
        index = subsection(read_json(folder / INDEX), "weight_map", f"{folder / INDEX}")
        absent = sorted({str(n) for n in index.values() if not (folder / str(n)).is_file()})
        if absent:
            raise WeightsError(f"{folder}: {INDEX} names files that are not there: {absent[:4]}")
        return {key: folder / str(name) for key, name in index.items()}
    if not (folder / SINGLE).is_file():
        raise WeightsError(f"{folder}: holds neither {INDEX} nor {SINGLE}")
    with _as_weights_error(folder / SINGLE), safe_open(folder / SINGLE, "pt") as opened:
        return dict.fromkeys(opened.keys(), folder / SINGLE)


def _shapes(layout: Mapping[str, Path]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every key with its shape, from the headers alone."""
    for file in sorted(set(layout.values())):
        with _as_weights_error(file), safe_open(file, "pt") as opened:
            for key in [k for k, f in layout.items() if f == file]:
                yield key, tuple(opened.get_slice(key).get_shape())


def _tensors(layout: Mapping[str, Path]) -> Iterator[tuple[str, Tensor]]:
    """Every key with its tensor, read when its turn comes."""
    for file in sorted(set(layout.values())):
        with _as_weights_error(file), safe_open(file, "pt") as opened:
            for key in [k for k, f in layout.items() if f == file]:
                yield key, opened.get_tensor(key)


@contextmanager
def _as_weights_error(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{file}: cannot be read or written: {error}") from error


def _check_rows(folder: Path, rows: int, wanted: int, learned_rows: int | None) -> None:
    """Whether a checkpoint of so many vocabulary rows can be extended to those wanted."""
    if learned_rows is not None and learned_rows <= rows < wanted:
        return
    reason = "" if learned_rows is None else f", of which {learned_rows} must be in the checkpoint"
    raise WeightsError(
        f"{folder}: the vocabulary does not fit: the checkpoint has {rows} rows, the model "
        f"{wanted}{reason}"
    )


def _extend(
    key: str, tensor: Tensor, learned_rows: int, rows: int, scale: float, seed: int
) -> Tensor:
    """The learned rows of a vocabulary parameter, and fresh ones up to the number wanted."""
    mean = tensor[:learned_rows].mean(0, dtype=torch.float32)
    extended = tensor.new_empty(rows, tensor.shape[1])
    extended[:learned_rows] = tensor[:learned_rows]
    noise = keyed_normal(key, (rows - learned_rows, tensor.shape[1]), seed)
    extended[learned_rows:] = noise.mul_(scale).add_(mean)
    return extended


def _speech_config(folder: Path) -> SenseVoiceConfig:
    """Sizes of a checkpoint's speech encoder: the published ones unless it says otherwise."""
    sizes = subsection(read_json(folder / CONFIG), _SPEECH_SIZES, f"{folder / CONFIG}")
    return fill(SenseVoiceConfig, sizes, f"{folder / CONFIG}: {_SPEECH_SIZES}")


def _shards(tensors: Mapping[str, Tensor], itemsize: int, limit: int) -> list[list[str]]:
    """Keys in order, cut into files of limited size."""
    shards: list[list[str]] = [[]]
    size = 0
    for key, tensor in tensors.items():
        bytes_of_tensor = tensor.numel() * itemsize
        if shards[-1] and size + bytes_of_tensor > limit:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += bytes_of_tensor
    return shards


def _write_shard(
    path: Path, keys: Sequence[str], tensors: Mapping[str, Tensor], dtype: torch.dtype, writer: bool
) -> None:
    """One safetensors file (length of the header, header in JSON, data) without a copy of it."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key in keys:
        start, end = end, end + math.prod(tensors[key].shape) * dtype.itemsize
        shape = list(tensors[key].shape)
        header[key] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") if writer else Path(os.devnull).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in keys:
            tensor = tensors[key]
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if writer:
                file.write(_stored_bytes(whole, dtype))
        if writer:
            file.flush()
            os.fsync(file.fileno())


def _stored_bytes(tensor: Tensor, dtype: torch.dtype) -> memoryview:
    """A tensor as it lies in the file."""
    stored = tensor.detach().to("cpu", dtype).contiguous()
    return stored.reshape(-1).view(torch.uint8).numpy().data
