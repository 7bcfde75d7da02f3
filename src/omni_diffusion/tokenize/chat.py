"""Conversations as spans: what is stored of a sample, and the training sequence it becomes.

A conversation is laid out as in the published code (`preprocess` of its `dataset_qwen2.py`):

    <|im_start|>user\\n CONTENT <|im_end|>\\n <|im_start|>assistant\\n CONTENT <|im_end|>\\n ...

Its content is a row of pieces: text, and media where the placeholders `<|image|>` and `<|audio|>`
stand. A corpus stores the pieces of a sample in one stream a modality (text ids, image codes,
speech codes, speech features) and a **span table** that says how they follow each other:

    column    0 message  1 role  2 modality  3 start  4 length
    message   0, 1, 2 ... in order; all rows of a message are neighbours
    role      0 system, 1 user, 2 assistant: of the message, repeated in each of its rows
    modality  0 text, 1 image at 256 px, 2 image at 512 px, 3 speech codes, 4 speech features
    start     first element of the piece in the stream of that modality
    length    elements: text ids, image codes (256 or 1,024), speech codes, feature frames

The streams hold content only, in native codes. Headers, ends of turn and the tokens around media
belong to the template and are added by `ChatTemplate.assemble`, which touches arrays but no string.
A message without content has one text row of length 0.

Media take the form that the published model expects of the role: the user's speech is continuous
(features for the SenseVoice encoder), the assistant's is speech codes; a picture is 512 px in a
user's turn and 256 px elsewhere. Text between placeholders is tokenized by itself, in one go.

`<|im_start|>`, role and newline are tokenized apart from the content, as in published training.
(The published *inference* script tokenizes a whole prompt in one go; the two differ only for
content that begins with a newline, which then joins the header's.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.errors import CodeRangeError, RecordError, TextError
from omni_diffusion.tokenize.text import TextTokenizer, require_characters
from omni_diffusion.tokenize.vocabulary import IM_END, IM_START

PLACEHOLDER: Final = re.compile(r"<\|(image|audio)\|>")
SENSEVOICE_QUERIES: Final = 4
"""Embeddings that SenseVoice puts before the frames (language, event, emotion, text form)."""


class Role(IntEnum):
    """Who speaks: column 1 of the span table."""

    SYSTEM = 0
    USER = 1
    ASSISTANT = 2


class Modality(IntEnum):
    """What a span holds: column 2 of the span table."""

    TEXT = 0
    IMAGE_256 = 1
    IMAGE_512 = 2
    SPEECH = 3
    FEATURES = 4


ROLES: Final[Mapping[str, Role]] = {
    "system": Role.SYSTEM,
    "user": Role.USER,
    "human": Role.USER,
    "assistant": Role.ASSISTANT,
    "gpt": Role.ASSISTANT,
}
"""Role names that records may use. (The published code asks for the very word `user` when it picks
the resolution of a picture, so that one in a `human` turn gets 256 px; here it gets 512.)"""

IMAGE_CODES: Final[Mapping[int, int]] = {Modality.IMAGE_256: 256, Modality.IMAGE_512: 1024}
"""Codes of a picture at each resolution."""

Integers: TypeAlias = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of content, before it is tokenized.

    Attributes:
        message: position of its message in the conversation.
        role: of that message.
        modality: what it becomes; for media this names the tokenizer and the resolution.
        text: of a text piece.
        media: of a media piece, its position among the record's images or audios.
    """

    message: int
    role: Role
    modality: Modality
    text: str = ""
    media: int = -1


@dataclass(frozen=True, slots=True)
class ChatSequence:
    """One sample in ids of the unified vocabulary, before tail pads and masking.

    Attributes:
        ids: int32, shape [L].
        supervised: bool, shape [L]; True where the model learns to predict the id: the
            assistant's content, end of turn and newline.
        audio_indices: for each continuous speech input, the int32 positions (frames + 4 of them)
            at which its encoded frames replace the embeddings.
    """

    ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    audio_indices: list[NDArray[np.int32]]


def content_pieces(
    key: str, messages: Sequence[Mapping[str, str]], *, images: int, audios: int
) -> list[Piece]:
    """Cut the messages of a record at their placeholders.

    No system message is added where a record has none.

    Args:
        key: of the record, for errors.
        messages: `role` (see `ROLES`) and `content` each.
        images: how many pictures the record has; the n-th `<|image|>` stands for the n-th.
        audios: how many sounds the record has; the n-th `<|audio|>` stands for the n-th.

    Returns:
        At least one piece a message, in order.

    Raises:
        RecordError: no messages, an unknown role, content that is no text, or another number of
            placeholders than of media.
    """
    if not messages:
        raise RecordError(key, "messages", "is empty")
    available = {"image": images, "audio": audios}
    used = dict.fromkeys(available, 0)
    pieces: list[Piece] = []
    for index, message in enumerate(messages):
        role = _role_of(key, index, message)
        content = _content_of(key, index, message)
        before = len(pieces)
        # With one group in the pattern, odd parts are the names of the placeholders.
        for position, part in enumerate(PLACEHOLDER.split(content)):
            if position % 2:
                if used[part] == available[part]:
                    field = f"messages.{index}.content"
                    reason = f"more <|{part}|> placeholders than the {available[part]} {part}s"
                    raise RecordError(key, field, reason)
                pieces.append(Piece(index, role, _media_modality(part, role), media=used[part]))
                used[part] += 1
            elif part:
                pieces.append(Piece(index, role, Modality.TEXT, text=part))
        if len(pieces) == before:
            pieces.append(Piece(index, role, Modality.TEXT))
    for name, count in available.items():
        if used[name] != count:
            reason = f"{count} in the record, {used[name]} <|{name}|> placeholders in its messages"
            raise RecordError(key, f"{name}s", reason)
    return pieces


def tokenize_pieces(
    pieces: Sequence[Piece], tokenizer: TextTokenizer, audio_lengths: Sequence[int]
) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
    """What a corpus stores of the content: the text stream and the span table.

    Args:
        pieces: of one record, from `content_pieces`.
        tokenizer: for the text pieces; control strings in them stay text.
        audio_lengths: for each audio of the record, its speech codes (assistant) or feature
            frames (others).

    Returns:
        Text ids, uint32 [T], and spans, int32 [n, 5] (see the module's docstring). The streams of
        the other modalities are the pieces' codes or frames one after the other.
    """
    texts = tokenizer.encode_batch([p.text for p in pieces if p.modality == Modality.TEXT])
    stream = np.concatenate([np.zeros(0, dtype=np.uint32), *texts])
    return stream, span_table(pieces, [len(ids) for ids in texts], audio_lengths)


def span_table(
    pieces: Sequence[Piece], text_lengths: Sequence[int], audio_lengths: Sequence[int]
) -> NDArray[np.int32]:
    """Span table (int32 [n, 5]) of pieces whose lengths are known.

    Args:
        pieces: of one record, from `content_pieces`.
        text_lengths: ids of each text piece, in order.
        audio_lengths: codes or frames of each audio of the record.
    """
    starts = [0] * len(Modality)
    remaining_texts = iter(text_lengths)
    rows = []
    for piece in pieces:
        if piece.modality == Modality.TEXT:
            length = next(remaining_texts)
        else:
            length = IMAGE_CODES.get(piece.modality) or audio_lengths[piece.media]
        rows.append((piece.message, piece.role, piece.modality, starts[piece.modality], length))
        starts[piece.modality] += length
    return np.array(rows, dtype=np.int32)


class ChatTemplate:
    """The constant ids around content: all that training needs of a tokenizer, built from it once.

    Attributes:
        vocabulary: the id layout.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        vocabulary = self.vocabulary = tokenizer.vocabulary
        newline = tokenizer.encode("\n")
        self._headers = [
            _int32([vocabulary.control_id(IM_START), *tokenizer.encode(name), *newline])
            for name in ("system", "user", "assistant")
        ]
        self._footer = _int32([vocabulary.control_id(IM_END), *newline])
        kinds: Mapping[int, str] = {
            Modality.IMAGE_256: "image",
            Modality.IMAGE_512: "image",
            Modality.SPEECH: "audio",
            Modality.FEATURES: "audio",
        }
        self._begin, self._end = (
            {m: _int32([vocabulary.control_id(f"<|{e}_of_{kind}|>")]) for m, kind in kinds.items()}
            for e in ("begin", "end")
        )
        self._context_of_audio = vocabulary.control_id("<|context_of_audio|>")
        self._to_ids: Mapping[int, Callable[[Integers], NDArray[np.int32]]] = {
            Modality.TEXT: vocabulary.text_ids,
            Modality.IMAGE_256: vocabulary.image_ids,
            Modality.IMAGE_512: vocabulary.image_ids,
            Modality.SPEECH: vocabulary.speech_ids,
        }

    def length(self, spans: Integers) -> int:
        """Ids that `assemble` makes of these spans, known without assembling."""
        roles, modalities, lengths = spans[:, 1], spans[:, 2], spans[:, 4]
        turn_lengths = np.array([len(header) + len(self._footer) for header in self._headers])
        return int(
            turn_lengths[roles[_first_rows(spans)]].sum()
            + lengths.sum()
            + 2 * np.count_nonzero(modalities != Modality.TEXT)
            + SENSEVOICE_QUERIES * np.count_nonzero(modalities == Modality.FEATURES)
        )

    def supervised_length(self, spans: Integers) -> int:
        """Ids among them that carry a label, known without assembling."""
        answers = spans[:, 1] == Role.ASSISTANT
        content = answers & (spans[:, 2] != Modality.FEATURES)
        return int(
            len(self._footer) * np.count_nonzero(answers & _first_rows(spans))
            + spans[content, 4].sum()
            + 2 * np.count_nonzero(content & (spans[:, 2] != Modality.TEXT))
        )

    def assemble(
        self,
        key: str,
        spans: Integers,
        streams: Mapping[int, Integers],
        *,
        prompt: bool = False,
    ) -> ChatSequence:
        """The sequence of one sample: template ids and slices of its streams, concatenated.

        Args:
            key: of the sample, for errors.
            spans: its span table, [n, 5].
            streams: by modality, the native ids or codes, each [elements]. Features need no
                stream: only their number enters the sequence.
            prompt: append the header of an assistant turn, which generation then fills.

        Raises:
            RecordError: the table breaks its contract or points outside a stream.
            CodeRangeError: a code is outside its code book.
        """
        rows = _checked_rows(key, spans, streams)
        parts: list[NDArray[np.int32]] = []
        labelled: list[bool] = []
        audio_parts: list[int] = []

        def put(supervised: bool, *ids: NDArray[np.int32]) -> None:
            parts.extend(ids)
            labelled.extend([supervised] * len(ids))

        for index, (message, role, modality, start, length) in enumerate(rows):
            answer = role == Role.ASSISTANT
            if index == 0 or rows[index - 1][0] != message:
                put(False, self._headers[role])
            if modality == Modality.TEXT:
                put(answer, self._body(key, modality, streams[modality][start : start + length]))
            elif modality == Modality.FEATURES:
                audio_parts.append(len(parts) + 1)
                frames = np.full(length + SENSEVOICE_QUERIES, self._context_of_audio, np.int32)
                # Continuous inputs are nothing to predict, whoever speaks (as published).
                put(False, self._begin[modality], frames, self._end[modality])
            else:
                codes = self._body(key, modality, streams[modality][start : start + length])
                put(answer, self._begin[modality], codes, self._end[modality])
            if index + 1 == len(rows) or rows[index + 1][0] != message:
                put(answer, self._footer)
        if prompt:
            put(False, self._headers[Role.ASSISTANT])

        lengths = [len(part) for part in parts]
        ends = np.cumsum(lengths, dtype=np.int32)
        return ChatSequence(
            ids=np.concatenate(parts),
            supervised=np.repeat(labelled, lengths),
            audio_indices=[np.arange(ends[i - 1], ends[i], dtype=np.int32) for i in audio_parts],
        )

    def _body(self, key: str, modality: int, codes: Integers) -> NDArray[np.int32]:
        """Ids of one slice of a stream, with the offset of its modality applied."""
        try:
            return self._to_ids[modality](codes)
        except CodeRangeError as error:
            raise CodeRangeError(f"record {key!r}: {error}") from None


def _role_of(key: str, index: int, message: Mapping[str, str]) -> Role:
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise RecordError(key, f"messages.{index}.role", f"{role!r} is none of {', '.join(ROLES)}")
    return ROLES[role]


def _content_of(key: str, index: int, message: Mapping[str, str]) -> str:
    content = message.get("content")
    field = f"messages.{index}.content"
    if not isinstance(content, str):
        raise RecordError(key, field, f"is {type(content).__name__}, not text")
    try:
        require_characters(content)
    except TextError as error:
        raise RecordError(key, field, str(error)) from None
    return content


def _media_modality(name: str, role: Role) -> Modality:
    """What a placeholder becomes in a turn of this role."""
    if name == "image":
        return Modality.IMAGE_512 if role == Role.USER else Modality.IMAGE_256
    return Modality.SPEECH if role == Role.ASSISTANT else Modality.FEATURES


def _first_rows(spans: Integers) -> NDArray[np.bool_]:
    """True for the first row of each message."""
    return np.asarray(np.diff(spans[:, 0], prepend=-1) != 0)


def _checked_rows(key: str, spans: Integers, streams: Mapping[int, Integers]) -> list[list[int]]:
    """The rows of a span table as plain integers, once they are known to keep the contract."""
    if spans.ndim != 2 or spans.shape[1] != 5 or not len(spans):
        raise RecordError(key, "spans", f"has shape {spans.shape}, not [n >= 1, 5]")
    rows: list[list[int]] = spans.tolist()
    last_message, last_role = -1, -1
    for index, (message, role, modality, start, length) in enumerate(rows):
        fault = ""
        if message != last_message + 1 and (message != last_message or role != last_role):
            fault = f"message {message}, role {role} cannot follow {last_message}, {last_role}"
        elif not (0 <= role < len(Role) and 0 <= modality < len(Modality)):
            fault = f"there is no role {role} or no modality {modality}"
        elif start < 0 or length < 0:
            fault = f"negative start {start} or length {length}"
        elif length != IMAGE_CODES.get(modality, length):
            fault = f"a picture of {length} codes, not {IMAGE_CODES[modality]}"
        elif modality != Modality.FEATURES and start + length > len(streams.get(modality, ())):
            fault = (
                f"ends at {start + length}, the {Modality(modality).name} stream at "
                f"{len(streams.get(modality, ()))}"
            )
        if fault:
            raise RecordError(key, f"spans.{index}", fault)
        last_message, last_role = message, role
    return rows


def _int32(ids: Sequence[int | np.integer[Any]]) -> NDArray[np.int32]:
    return np.array(ids, dtype=np.int32)
