"""Media in JSON: uploads in, previews and results out, as base64."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any, Final

import numpy as np
from PIL import Image
from torch import Tensor

from omni_diffusion.generation.ask import Ask
from omni_diffusion.generation.files import write_wav
from omni_diffusion.generation.generation_recipe import TASKS
from omni_diffusion.generation.kit import Kit, Sound
from omni_diffusion.generation.layout import KINDS, Prepared
from omni_diffusion.generation.request import RequestError
from omni_diffusion.generation.studio import Reply, codes_so_far

_MEDIA: Final = ("image", "audio", "inpaint")
_FIELDS: Final = {"task": str, "text": str, "seed": int, "tokens": int, "steps": int}


def read_ask(value: Any) -> Ask:
    """A request out of the JSON that the page sends.

    Args:
        value: an object with `task`, `text`, `seed`, `tokens`, `steps`, and media in base64,
            plain or as data URLs, under `image`, `audio` and `inpaint`.

    Raises:
        RequestError: it is none, or the task lacks something.
    """
    if not isinstance(value, dict):
        raise RequestError("the request must be a JSON object")
    if unknown := sorted(set(value) - set(_FIELDS) - set(_MEDIA)):
        raise RequestError(f"unknown key {unknown[0]!r}")
    plain: dict[str, Any] = {}
    for name, kind in _FIELDS.items():
        if value.get(name) is None:
            continue
        if type(value[name]) is not kind:
            raise RequestError(f"{name} must be {'text' if kind is str else 'a whole number'}")
        plain[name] = value[name]
    if "task" not in plain:
        raise RequestError(f"no task; one of {', '.join(TASKS)}")
    media: dict[str, Any] = {
        name: _decoded(name, value[name]) for name in _MEDIA if value.get(name)
    }
    ask = Ask(**plain, **media)
    ask.check()
    return ask


def preview(prepared: Prepared, answer: Tensor, kit: Kit, *, draw: bool) -> dict[str, Any]:
    """An unfinished answer for the page.

    Args:
        prepared: what was asked.
        answer: its ids so far.
        kit: the tokenizers.
        draw: whether a picture is decoded, which takes a while.

    Returns:
        For a picture `hidden`, its places in rows as `0` and `1`, and perhaps `picture`; for text
        `text` with `_` for hidden tokens.
    """
    vocabulary = kit.template.vocabulary
    ids = answer.numpy()
    if KINDS[prepared.ask.task] == "picture":
        codes, hidden = codes_so_far(ids, kit, vocabulary.mask_id)
        found: dict[str, Any] = {"hidden": "".join("01"[int(h)] for h in hidden)}
        if draw:
            found["picture"] = picture_url(kit.draw(codes))
        return found
    if KINDS[prepared.ask.task] == "speech":
        return {}
    text = ids[(ids < kit.text.base_size) | (ids == vocabulary.mask_id)]
    runs = np.split(text, np.flatnonzero(np.diff(text == vocabulary.mask_id)) + 1)
    shown = [
        "_" * len(run) if len(run) and run[0] == vocabulary.mask_id else kit.text.decode(run)
        for run in runs
    ]
    return {"text": "".join(shown)}


def result(reply: Reply) -> dict[str, Any]:
    """A finished answer for the page: text, media as data URLs, and the facts."""
    found: dict[str, Any] = {"facts": reply.facts(), "text": reply.parts.text}
    if reply.picture is not None:
        found["picture"] = picture_url(reply.picture)
    if reply.sound is not None:
        found["sound"] = _sound_url(reply.sound)
    return found


def picture_url(picture: Image.Image) -> str:
    """A PNG as a data URL."""
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return _url("image/png", sink.getvalue())


def _sound_url(sound: Sound) -> str:
    sink = io.BytesIO()
    write_wav(sound, sink)
    return _url("audio/wav", sink.getvalue())


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _decoded(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise RequestError(f"{name} must be base64 text")
    try:
        return base64.b64decode(value.partition(",")[2] or value, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"{name} is not valid base64") from None
