"""How an answer came about, as pictures: an animation, a strip of it, or a map of all steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from omni_diffusion.generation.kit import SIDE_CODES, Codes, Kit
from omni_diffusion.generation.studio import Reply, codes_so_far
from omni_diffusion.tokenize.vocabulary import TokenKind, Vocabulary

_HIDDEN_LEVELS = (205, 190)
"""Grey of places that are still hidden, as a chequered pattern."""
_COLOURS = {
    TokenKind.TEXT: (46, 98, 170),
    TokenKind.CONTROL: (230, 145, 30),
    TokenKind.SPEECH: (52, 140, 90),
    TokenKind.IMAGE: (140, 80, 160),
}
_HIDDEN = (226, 226, 226)
_GAP = 8


def veil(picture: Image.Image, hidden: NDArray[np.bool_]) -> Image.Image:
    """A picture with its hidden places covered.

    Args:
        picture: RGB.
        hidden: [256], in rows of codes.
    """
    levels = np.array(picture)
    side = levels.shape[0] // SIDE_CODES
    cover = hidden.reshape(SIDE_CODES, SIDE_CODES).repeat(side, 0).repeat(side, 1)
    rows, columns = np.indices(levels.shape[:2]) // (side // 2)
    pattern = np.where((rows + columns) % 2, *_HIDDEN_LEVELS).astype(np.uint8)
    levels[cover] = pattern[cover][:, None]
    return Image.fromarray(levels)


def moments(steps: int, count: int) -> list[int]:
    """At most so many steps of all, evenly spread, the first and the last among them."""
    return sorted(set(np.linspace(0, steps - 1, min(count, steps)).round().astype(int).tolist()))


def picture_frames(reply: Reply, kit: Kit, count: int) -> list[Image.Image]:
    """A picture at some of its steps; needs its history."""
    history = _history(reply)
    start, mask_id = reply.prepared.prompt, kit.template.vocabulary.mask_id
    frames = []
    for step in moments(len(history), count):
        codes, hidden = codes_so_far(history[step, start:], kit, mask_id)
        frames.append(veil(kit.draw(codes), hidden))
    return frames


def strip(frames: Sequence[Image.Image], columns: int = 6) -> Image.Image:
    """Frames side by side, in rows."""
    width, height = frames[0].size
    rows = -(-len(frames) // columns)
    columns = min(columns, len(frames))
    size = columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP
    sheet = Image.new("RGB", size, "white")
    for number, frame in enumerate(frames):
        row, column = divmod(number, columns)
        sheet.paste(frame, (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP)))
    return sheet


def step_map(reply: Reply, vocabulary: Vocabulary, pixels: int = 6) -> Image.Image:
    """All steps of any answer: a row a step from the top, a cell a token, coloured by its kind.

    Text is blue, control tokens orange, speech green, picture codes violet; hidden is grey.
    """
    answers = _history(reply)[:, reply.prepared.prompt :]
    hidden = answers == vocabulary.mask_id
    kinds = vocabulary.modality_of(np.where(hidden, 0, answers))
    palette = np.array([_COLOURS[TokenKind(kind)] for kind in range(len(_COLOURS))], np.uint8)
    levels = palette[kinds]
    levels[hidden] = _HIDDEN
    cells = Image.fromarray(levels)
    grown = cells.resize((cells.width * pixels, cells.height * pixels), Image.Resampling.NEAREST)
    framed = Image.new("RGB", (grown.width + 2 * _GAP, grown.height + 2 * _GAP), "white")
    framed.paste(grown, (_GAP, _GAP))
    ImageDraw.Draw(framed).rectangle(
        (_GAP - 1, _GAP - 1, _GAP + grown.width, _GAP + grown.height), outline=(160, 160, 160)
    )
    return framed


def text_steps(reply: Reply, kit: Kit, count: int) -> list[str]:
    """A text at some of its steps, a line each; hidden tokens are `_`."""
    vocabulary, history = kit.template.vocabulary, _history(reply)
    lines = []
    for step in moments(len(history), count):
        answer = history[step, reply.prepared.prompt :]
        runs = np.split(answer, np.flatnonzero(np.diff(answer == vocabulary.mask_id)) + 1)
        shown = "".join(
            "_" * len(run) if run[0] == vocabulary.mask_id else kit.text.decode(run) for run in runs
        )
        lines.append(f"{step + 1:4d}  {shown!r}")
    return lines


def _history(reply: Reply) -> Codes:
    assert reply.answer.history is not None
    return np.asarray(reply.answer.history.numpy())
