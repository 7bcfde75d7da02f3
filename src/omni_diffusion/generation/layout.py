"""From what is asked to rows of ids: prompt, hidden answer, and what each place may hold.

An answer is laid out as in training. With the frame given, what is known of it stands already:

    picture          <|begin_of_image|> 256 hidden <|end_of_image|> <|im_end|> newline <|endoftext|>
    speech           <|begin_of_audio|> hidden ...
    text             hidden ...
    text and speech  hidden ... <|begin_of_audio|> hidden ...   begin at a share of the length

A hidden place of text may hold text, end of turn or end of text; one of speech a speech code, end
of audio, end of turn, newline or end of text; one of a picture a picture code. In the first part of
an answer (`no_end_before`) nothing that ends it may stand.

In training every sample is followed by one pad or more. A picture's length is known, so its pad is
given too: without one, a model that knows a picture by heart draws a tenth of its codes wrong. What
is hidden behind texts and speech may become pads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from omni_diffusion.backbone.dream import Dream, Inserts
from omni_diffusion.errors import OmniError
from omni_diffusion.generation.ask import Ask, Counted
from omni_diffusion.generation.generation_recipe import GenerationRecipe, TaskRecipe
from omni_diffusion.generation.kit import SIDE_CODES, Codes, Kit
from omni_diffusion.generation.request import Request, RequestError
from omni_diffusion.generation.sampler_recipe import SamplerRecipe
from omni_diffusion.tokenize.chat import (
    Modality,
    Piece,
    content_pieces,
    tokenize_pieces,
)
from omni_diffusion.tokenize.prompts import TASKS as WORDING
from omni_diffusion.tokenize.spans import discrete_speech
from omni_diffusion.tokenize.vocabulary import IM_END

KINDS: Final = {
    "t2i": "picture",
    "s2i": "picture",
    "tts": "speech",
    "asr": "text",
    "caption": "text",
    "vqa": "text",
    "svqa": "both",
    "sqa": "both",
    "chat": "text",
}
"""What each task's answer is made of."""

PICTURE_CODES: Final = SIDE_CODES**2
ANSWER_PIXELS: Final = 256
SPEECH_CODES_PER_FRAME: Final = 60 / 80
"""SenseVoice gives a frame for 60 ms, speech codes come every 80 ms."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A request for the sampler and what it came from.

    Attributes:
        ask: the user's terms.
        request: the sampler's terms.
        sampler: how it is denoised.
        prompt: length of the prompt in tokens.
    """

    ask: Ask
    request: Request
    sampler: SamplerRecipe

    @property
    def prompt(self) -> int:
        """Tokens of the prompt."""
        return self.request.answer_start


def prepare_ask(ask: Ask, model: Dream, kit: Kit, recipe: GenerationRecipe) -> Prepared:
    """Lay out what a user asks.

    Raises:
        RequestError: something is missing, or of no use, or too long for the model.
        MediaError: a file cannot be used.
    """
    ask.check()
    return lay_out(ask, *_prompt(ask, model, kit, recipe), model, kit, recipe)


def lay_out(
    ask: Ask,
    ids: Tensor,
    inserts: Inserts | None,
    counted: Counted,
    model: Dream,
    kit: Kit,
    recipe: GenerationRecipe,
) -> Prepared:
    """Put a hidden answer behind a prompt.

    Args:
        ask: task, length, seed, and what is painted into.
        ids: int64 [n], the prompt.
        inserts: vectors in place of some of its embeddings.
        counted: what of it the length rules count.
        model: must be able to read all of it.
        kit: its tokenizers.
        recipe: how the task is answered.

    Raises:
        RequestError: too long for the model.
        MediaError: a picture cannot be used.
    """
    task = recipe.task(ask.task)
    content = ask.tokens or task.length.length(counted.text, counted.speech)
    answer = _Answer(kit).build(KINDS[ask.task], content, task)
    if ask.inpaint is not None:
        answer = _inpainted(answer, ask, kit)
    allowed = torch.zeros(len(ids), answer.allowed.shape[1], 2, dtype=torch.int64)
    request = Request(
        ids=torch.cat((ids, answer.ids)),
        answer_start=len(ids),
        allowed=torch.cat((allowed, answer.allowed)),
        inserts=inserts,
        ends=answer.ends,
        seed=ask.seed,
    )
    sampler = task.sampler_for(len(answer.ids))
    if ask.steps is not None:
        sampler = sampler.model_copy(update={"steps": ask.steps})
    if sampler.guidance > 0:
        compared = _unconditional(ask, kit, task, ids)
        request = replace(request, unconditional=compared)
    request.check(model.config, guided=sampler.guidance > 0)
    return Prepared(ask=ask, request=request, sampler=sampler)


def _prompt(
    ask: Ask, model: Dream, kit: Kit, recipe: GenerationRecipe
) -> tuple[Tensor, Inserts | None, Counted]:
    """Ids of the prompt, vectors in it, and what the length rules count."""
    try:
        pieces = content_pieces(
            ask.task,
            ask.conversation(recipe),
            images=int(ask.image is not None and ask.inpaint is None),
            audios=int(ask.audio is not None),
        )
    except OmniError as error:
        raise RequestError(str(error)) from None
    if model.speech_config is None:
        pieces = discrete_speech(pieces)
    pixels = recipe.question_pixels or (256 if kit.demo else 512)
    if pixels == ANSWER_PIXELS:
        pieces = [_smaller(piece) for piece in pieces]
    streams: dict[int, Codes] = {}
    features = None
    frames = 0
    for piece in pieces:
        if piece.modality in (Modality.IMAGE_256, Modality.IMAGE_512):
            assert ask.image is not None
            streams[piece.modality] = kit.picture_codes(ask.image, pixels, "image")
        elif piece.modality == Modality.SPEECH:
            assert ask.audio is not None
            streams[piece.modality] = kit.speech_codes(ask.audio, "audio")
            frames = len(streams[piece.modality])
        elif piece.modality == Modality.FEATURES:
            assert ask.audio is not None
            features = kit.speech_features(ask.audio, "audio")
            frames = len(features)
    text, spans = tokenize_pieces(pieces, kit.text, [frames])
    streams[Modality.TEXT] = text
    sequence = kit.template.assemble(ask.key, spans, streams, prompt=True)
    inserts = None
    if features is not None:
        device = model.lm_head.weight.device
        with torch.no_grad():
            (vectors,) = model.embed_speech([features.to(device)])
        inserts = Inserts(torch.from_numpy(sequence.audio_indices[0]).long(), vectors)
        frames = round(frames * SPEECH_CODES_PER_FRAME)
    counted = Counted(text=len(kit.text.encode(ask.text)), speech=frames)
    return torch.from_numpy(sequence.ids).long(), inserts, counted


def _smaller(piece: Piece) -> Piece:
    return replace(piece, modality=Modality.IMAGE_256) if piece.modality == 2 else piece


def _unconditional(ask: Ask, kit: Kit, task: TaskRecipe, ids: Tensor) -> Tensor:
    """The prompt that guidance compares with."""
    if task.unconditional == "hidden":
        return torch.full_like(ids, kit.template.vocabulary.mask_id)
    system, user = WORDING[ask.task if ask.task != "chat" else "text"]
    content = user.replace("{text}", "").replace("<|audio|>", "").replace("<|image|>", "")
    messages = [{"role": "user", "content": content}]
    messages = [{"role": "system", "content": system}, *messages] if system else messages
    pieces = content_pieces("unconditional", messages, images=0, audios=0)
    text, spans = tokenize_pieces(pieces, kit.text, [])
    streams: dict[int, Codes] = {Modality.TEXT: text}
    return torch.from_numpy(
        kit.template.assemble("unconditional", spans, streams, prompt=True).ids
    ).long()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Laid:
    """An answer before it is denoised: ids [n], ranges [n, r, 2], ids that end it."""

    ids: Tensor
    allowed: Tensor
    ends: tuple[int, ...]


class _Answer:
    """Lays answers out in one vocabulary."""

    def __init__(self, kit: Kit) -> None:
        vocabulary = self.vocabulary = kit.template.vocabulary
        self.newline = [int(i) for i in kit.text.encode("\n")]
        self.im_end, self.end_of_text = vocabulary.control_id(IM_END), vocabulary.end_of_text_id
        self.pads = [self.end_of_text] if kit.padded else []
        self.begin_of_audio = vocabulary.control_id("<|begin_of_audio|>")
        self.end_of_audio = vocabulary.control_id("<|end_of_audio|>")
        self.begin_of_image = vocabulary.control_id("<|begin_of_image|>")
        self.end_of_image = vocabulary.control_id("<|end_of_image|>")
        singles = (self.end_of_text, self.im_end)
        self.text = [(0, kit.text.base_size), *((i, i + 1) for i in singles)]
        self.speech = [
            (vocabulary.speech_start, vocabulary.image_start),
            *((i, i + 1) for i in (*singles, self.end_of_audio, *self.newline)),
        ]
        # Text and speech with the begin between them, wherever that comes.
        self.both = [(0, vocabulary.image_start)]
        self.picture = [(vocabulary.image_start, vocabulary.size)]
        controls = (self.end_of_text, vocabulary.speech_start)
        self.framed_picture = [*self.picture, controls, *((i, i + 1) for i in self.newline)]

    def build(self, kind: str, content: int, task: TaskRecipe) -> _Laid:
        """An answer of a kind with so many tokens of content."""
        mask, given = self.vocabulary.mask_id, task.frame == "given"
        # So many places of content cannot hold an end.
        sure = min(max(1, int(task.no_end_before * content)), content) if given else 0
        if kind == "both":
            sure = min(sure, 1)
        if kind == "picture":
            footer = [self.end_of_image, self.im_end, *self.newline]
            if given:
                ids = [self.begin_of_image, *[mask] * content, *footer, *self.pads]
                return self._laid(ids, [self.picture] * len(ids), ())
            ids = [mask] * (1 + content + len(footer))
            return self._laid(ids, [self.framed_picture] * len(ids), ())
        if kind == "text":
            ids = [mask] * (content + 1 + len(self.newline))
            ranges_by_place = [self.text[:1]] * sure + [self.text] * (len(ids) - sure)
            return self._laid(ids, ranges_by_place, (self.im_end, self.end_of_text))
        if kind == "speech":
            ids = [mask] * (1 + content + 2 + len(self.newline))
            if given:
                ids[0] = self.begin_of_audio
            ranges = self.speech if given else self.both
            ranges_by_place = [ranges[:1]] * (1 + sure) + [ranges] * (len(ids) - 1 - sure)
            ends = (self.end_of_audio, self.im_end, self.end_of_text)
            return self._laid(ids, ranges_by_place, ends)
        ids = [mask] * (content + 3 + len(self.newline))
        ranges_by_place = [self.both] * len(ids)
        if task.speech_at is not None:
            at = int(task.speech_at * len(ids))
            ids[at] = self.begin_of_audio
            sure = min(sure, len(ids) - at - 1)
            rest = len(ids) - at - 1 - sure
            ranges_by_place = [*[self.text] * at, *[self.speech[:1]] * (1 + sure)]
            ranges_by_place += [self.speech] * rest
        return self._laid(ids, ranges_by_place, ())

    def _laid(
        self, ids: list[int], ranges: Sequence[Sequence[tuple[int, int]]], ends: tuple[int, ...]
    ) -> _Laid:
        most = max(map(len, ranges))
        table = [[*of_place, *[(0, 0)] * (most - len(of_place))] for of_place in ranges]
        return _Laid(ids=torch.tensor(ids), allowed=torch.tensor(table), ends=ends)


def _inpainted(answer: _Laid, ask: Ask, kit: Kit) -> _Laid:
    """The answer with the codes of the picture where its mask is dark."""
    assert ask.image is not None and ask.inpaint is not None
    codes = kit.picture_codes(ask.image, ANSWER_PIXELS, "image")
    redrawn = redrawn_cells(ask, kit)
    if not redrawn.any():
        raise RequestError("the mask is dark everywhere: there is nothing to draw anew")
    ids = answer.ids.clone()
    place = torch.arange(1, 1 + PICTURE_CODES)  # behind begin-of-image
    given = torch.from_numpy(~redrawn.reshape(-1))
    known = torch.from_numpy(kit.template.vocabulary.image_ids(codes)).long()
    ids[place[given]] = known[given]
    # A free frame may have the model put the picture elsewhere: here its place is settled.
    ids[0] = _Answer(kit).begin_of_image
    return replace(answer, ids=ids)


def redrawn_cells(ask: Ask, kit: Kit) -> Codes:
    """Which of the 16 by 16 codes are drawn anew: those with a light pixel in the mask.

    Raises:
        MediaError: the mask cannot be read.
    """
    assert ask.inpaint is not None
    levels = kit.grey_square(ask.inpaint, ANSWER_PIXELS, "inpaint")
    side = ANSWER_PIXELS // SIDE_CODES
    cells = levels.reshape(SIDE_CODES, side, SIDE_CODES, side)
    return np.asarray(cells.max(axis=(1, 3)) > 127)
