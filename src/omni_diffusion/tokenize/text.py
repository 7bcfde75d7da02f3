"""Text to ids and back: Qwen2's byte-level BPE, without any control token in it.

The published tokenizer knows 24,621 strings (`<|im_end|>`, `<|image_5|>` ...) that become ids of
their own wherever they appear in a text. Here the BPE knows ordinary text only, and the ids of
those strings are arithmetic (see `vocabulary.py`). Two ways to read a text follow:

    encode(text)            every character is text; `<|im_end|>` typed by a user stays harmless
    encode_control(text)    control strings become control ids, exactly as in the published code

Data is always made with the first: a caption must not be able to close a turn or place a picture.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from omni_diffusion.errors import CodeRangeError, TextError, WeightsError
from omni_diffusion.tokenize.vocabulary import (
    CONTROL_PATTERN,
    END_OF_TEXT,
    TokenKind,
    Vocabulary,
)
from omni_diffusion.tokenize.weights import DEMO, TOKENIZER_FILES, resolve_weights

SPLIT_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 cuts a text into words before BPE; merges never cross a cut."""


_PROBE: Final = "It's  a na\u00efve\t\u5317\u4eac test\r\n\n of 3 \U0001f642\u200d\u2642\ufe0f! "


class TextTokenizer:
    """A byte-level BPE and the unified vocabulary that starts above its ids.

    Any text survives the round trip: `decode(encode(text)) == normalize(text)`, where `normalize`
    is Unicode NFC, as in the published tokenizer.

    Attributes:
        vocabulary: the id layout that follows from the size of the text range.
        base_size: ordinary tokens that exist; ids from here to `vocabulary.text_size` are unused
            (none in the published tokenizer).
    """

    def __init__(self, bpe: Tokenizer, vocabulary: Vocabulary) -> None:
        """Wrap `bpe`, which must know no added tokens; the `from_` methods build it."""
        self._bpe = bpe
        self.vocabulary = vocabulary
        self.base_size: int = bpe.get_vocab_size()

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str]) -> Self:
        """The tokenizer in a folder, in a file, on the hub, or the small one called `demo`.

        A folder holds `tokenizer.json`, or `vocab.json` and `merges.txt`, or `qwen.tiktoken`.

        Raises:
            WeightsError: nothing there, or not a byte-level BPE with the published token order.
        """
        if str(name_or_path) == DEMO:
            with resources.as_file(
                resources.files("omni_diffusion.tokenize") / "demo/text.json"
            ) as path:
                return cls.from_file(path)
        path = resolve_weights(name_or_path, TOKENIZER_FILES)
        if path.is_file():
            return cls.from_tiktoken(path) if path.suffix == ".tiktoken" else cls.from_file(path)
        if (path / "tokenizer.json").is_file():
            return cls.from_file(path / "tokenizer.json")
        if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
            return cls.from_vocab_and_merges(path / "vocab.json", path / "merges.txt")
        if (path / "qwen.tiktoken").is_file():
            return cls.from_tiktoken(path / "qwen.tiktoken")
        raise WeightsError(
            f"{path}: holds no text tokenizer (tokenizer.json, or vocab.json with merges.txt, "
            f"or qwen.tiktoken)"
        )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """The tokenizer in a Hugging Face `tokenizer.json`.

        Its added tokens must be control tokens at the ids that the layout gives them: a file that
        orders them otherwise would pair a published checkpoint with the wrong embeddings.

        Raises:
            WeightsError: unreadable, not a BPE, or another order of added tokens.
        """
        path = Path(path)
        try:
            stored: dict[str, Any] = json.loads(path.read_bytes())
            kind, base = stored["model"]["type"], stored["model"]["vocab"]
            added = {token["content"]: int(token["id"]) for token in stored["added_tokens"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{path}: cannot be read as a tokenizer.json: {error!r}") from error
        if kind != "BPE":
            raise WeightsError(f"{path}: holds a {kind} model, not byte-level BPE")
        if END_OF_TEXT not in added:
            raise WeightsError(f"{path}: has no {END_OF_TEXT} among its added tokens")
        vocabulary = Vocabulary(added[END_OF_TEXT])
        for name, token_id in added.items():
            if vocabulary.id_of(name) != token_id:
                raise WeightsError(
                    f"{path}: {name!r} has id {token_id}, the layout says {vocabulary.id_of(name)}"
                )
        words = {word: index for word, index in base.items() if index < vocabulary.text_size}
        bare = stored | {
            "added_tokens": [],
            "post_processor": None,
            "model": stored["model"] | {"vocab": words},
        }
        try:
            bpe = Tokenizer.from_str(json.dumps(bare))
        except Exception as error:  # `tokenizers` raises nothing narrower
            raise WeightsError(f"{path}: cannot be read as a tokenizer.json: {error}") from error
        return cls._checked(bpe, vocabulary, path)

    @classmethod
    def from_vocab_and_merges(
        cls, vocab: str | os.PathLike[str], merges: str | os.PathLike[str]
    ) -> Self:
        """Qwen2's or Dream's tokenizer from its `vocab.json` and `merges.txt`.

        Raises:
            WeightsError: one of the files cannot be read.
        """
        try:
            words, pairs = models.BPE.read_file(str(vocab), str(merges))
        except Exception as error:  # `tokenizers` raises nothing narrower
            raise WeightsError(f"{vocab}, {merges}: cannot be read as BPE: {error}") from error
        return cls._checked(byte_level_bpe(words, pairs), Vocabulary(len(words)), vocab)

    @classmethod
    def from_tiktoken(cls, path: str | os.PathLike[str]) -> Self:
        """Qwen2's tokenizer from `qwen.tiktoken`, one base64 token and its rank a line.

        Raises:
            WeightsError: a line cannot be read, or a token is not the union of two lower ones.
        """
        try:
            lines = [line.split() for line in Path(path).read_bytes().splitlines() if line]
            ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
        except (OSError, ValueError, binascii.Error) as error:
            raise WeightsError(f"{path}: cannot be read as tiktoken ranks: {error}") from error
        character = byte_characters()
        words = {"".join(character[b] for b in token): rank for token, rank in ranks.items()}
        pairs = []
        for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
            if len(token) > 1:
                parts = _parts_below(token, rank, ranks)
                if len(parts) != 2:
                    raise WeightsError(f"{path}: rank {rank} does not join two lower ranks")
                left, right = ("".join(character[b] for b in part) for part in parts)
                pairs.append((left, right))
        return cls._checked(byte_level_bpe(words, pairs), Vocabulary(len(words)), path)

    @classmethod
    def _checked(cls, bpe: Tokenizer, vocabulary: Vocabulary, source: object) -> Self:
        """Refuse a model whose ids have gaps or which cannot give back the text it was given."""
        words = bpe.get_vocab(with_added_tokens=False)
        if sorted(words.values()) != list(range(len(words))):
            raise WeightsError(f"{source}: the ids of ordinary text are not 0..{len(words) - 1}")
        missing = set(byte_characters()) - set(words)
        if missing:
            raise WeightsError(f"{source}: {len(missing)} of the 256 bytes have no token")
        tokenizer = cls(bpe, vocabulary)
        if tokenizer.decode(tokenizer.encode(_PROBE)) != tokenizer.normalize(_PROBE):
            raise WeightsError(f"{source}: is not byte-level: {_PROBE!r} does not survive it")
        return tokenizer

    @cached_property
    def digest(self) -> str:
        """16 hex digits over everything that decides the ids of a text.

        The same for the same tokenizer read from `tokenizer.json`, `merges.txt` or ranks.
        """
        stored = json.loads(self._bpe.to_str())
        cuts = stored["pre_tokenizer"].get("pretokenizers", [stored["pre_tokenizer"]])
        # `trim_offsets` moves reported character positions and never an id.
        cuts = [{k: v for k, v in cut.items() if k != "trim_offsets"} for cut in cuts]
        parts = [stored["normalizer"], cuts, stored["model"]["merges"], stored["model"]["vocab"]]
        text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
        return xxhash.xxh3_64_hexdigest(text.encode())

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over tokenizer and id layout; equal for corpora that may be mixed."""
        return self.vocabulary.fingerprint(self.digest)

    def normalize(self, text: str) -> str:
        """`text` as `decode(encode(text))` returns it."""
        require_characters(text)
        normalizer = self._bpe.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Ids of a text, all of them ordinary: uint32, shape [tokens].

        Raises:
            TextError: the text holds a lone surrogate.
        """
        require_characters(text)
        return np.array(self._bpe.encode(text, add_special_tokens=False).ids, dtype=np.uint32)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """`encode` of many texts at once, on all cores.

        Raises:
            TextError: one of the texts holds a lone surrogate.
        """
        for text in texts:
            require_characters(text)
        encodings = self._bpe.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def encode_control(self, text: str) -> NDArray[np.uint32]:
        """Ids of a text in which control strings mean themselves, as in the published code.

        `<|im_end|>`, `<|image_5|>` and the like become their ids; what lies between is encoded
        piece by piece. For prompts and comparisons; a corpus is made with `encode`.

        Raises:
            TextError: the text holds a lone surrogate.
        """
        pieces: list[NDArray[np.uint32]] = []
        start = 0
        for match in CONTROL_PATTERN.finditer(text):
            control_id = self.vocabulary.id_of(match[0])
            if control_id is not None:
                pieces.append(self.encode(text[start : match.start()]))
                pieces.append(np.array([control_id], dtype=np.uint32))
                start = match.end()
        pieces.append(self.encode(text[start:]))
        return np.concatenate(pieces)

    def decode(self, ids: ArrayLike) -> str:
        """The text of ids; control, speech and image ids appear by name (`<|image_5|>`).

        Bytes that are no valid UTF-8 (a sequence cut inside a character) become U+FFFD.

        Raises:
            CodeRangeError: an id is outside the vocabulary or stands for nothing.
        """
        array = np.asarray(ids).reshape(-1)
        is_text = self.vocabulary.modality_of(array) == TokenKind.TEXT
        unused = array[is_text & (array >= self.base_size)]
        if unused.size:
            raise CodeRangeError(
                f"id {unused[0]} stands for nothing: text has {self.base_size} ids"
            )
        changes = np.flatnonzero(np.diff(is_text)) + 1
        runs = zip(np.split(array, changes), np.split(is_text, changes), strict=True)
        return "".join(
            self._bpe.decode(run.tolist())
            if kind.all()
            else "".join(self.vocabulary.name_of(token_id) for token_id in run.tolist())
            for run, kind in runs
        )


def byte_level_bpe(words: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """A BPE with Qwen2's normalisation (NFC) and split pattern over the 256 bytes.

    Args:
        words: token, written in `byte_characters`, to id.
        merges: pairs of tokens in the order in which they are joined.
    """
    bpe = Tokenizer(models.BPE(vocab=dict(words), merges=list(merges)))
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    return bpe


def byte_characters() -> list[str]:
    """The character that stands for each of the 256 bytes in files of byte-level BPE.

    A byte that is a visible Latin-1 character stands for itself; the others take the code points
    from 256 on, in order.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte if byte in visible else 256 + hidden.index(byte)) for byte in range(256)]


def _parts_below(token: bytes, rank: int, ranks: Mapping[bytes, int]) -> list[bytes]:
    """What `token` looks like just before its own merge: BPE with the ranks below `rank` only."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
        lowest = min(joined)
        if lowest >= rank:
            break
        at = joined.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def require_characters(text: str) -> None:
    """Refuse lone surrogates: halves of a character, found in broken JSON, that have no UTF-8.

    Raises:
        TextError: says which one and where.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character "
            f"{error.start} of {len(text)}"
        ) from None
