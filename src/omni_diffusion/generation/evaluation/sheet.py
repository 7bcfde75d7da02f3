"""A contact sheet: the pictures of a corpus, each beside the one that the model drew instead."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from omni_diffusion.generation.evaluation.corpus import Question, part_right
from omni_diffusion.generation.kit import Codes, Kit
from omni_diffusion.generation.studio import Reply

MOST: Final = 60
"""Pairs on a sheet; further ones are left out."""
_SIDE, _GAP, _LINE, _ACROSS = 128, 12, 16, 4


class ContactSheet:
    """Collects pairs of pictures while a model is measured.

    Args:
        kit: decodes the codes; both pictures of a pair come from codes, so what the tokenizer
            loses is not held against the model.
    """

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._pairs: list[tuple[str, Codes, Codes]] = []

    def add(self, question: Question, reply: Reply) -> None:
        """Keep a pair, if there are two pictures and room on the sheet."""
        expected, made = question.picture, reply.parts.picture
        if expected is None or made is None or len(self._pairs) == MOST:
            return
        label = f"{part_right(expected, made):.0%}  {question.asked}"
        self._pairs.append((label, expected, made))

    def write(self, path: Path) -> None:
        """Draw the sheet, if there are pictures."""
        if not self._pairs:
            return
        width, height = 2 * _SIDE + _GAP, _SIDE + _LINE + _GAP
        rows = -(-len(self._pairs) // _ACROSS)
        across = min(_ACROSS, len(self._pairs))
        sheet = Image.new("RGB", (across * width + _GAP, rows * height + _GAP), "white")
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
        for number, (label, *pair) in enumerate(self._pairs):
            x, y = _GAP + number % _ACROSS * width, _GAP + number // _ACROSS * height
            for i, codes in enumerate(pair):
                picture = self._kit.draw(codes).resize((_SIDE, _SIDE))
                sheet.paste(picture, (x + i * _SIDE, y))
            while draw.textlength(label, font) > 2 * _SIDE:
                label = label[:-2].rstrip(" \u2026") + "\u2026"
            draw.text((x, y + _SIDE + 1), label, "black", font)
        sheet.save(path)
