"""Shape of the language model, as the published `config.json` names it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from omni_diffusion.errors import WeightsError
from omni_diffusion.tokenize.speech.published_config import read_json, require
from omni_diffusion.tokenize.vocabulary import SPECIAL_TOKENS, Vocabulary

_FIXED: Final = {
    "model_type": "Dream",
    "hidden_act": "silu",
    "use_sliding_window": False,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "use_mrope": False,
}
"""Settings that change the result and of which the code knows only the published value."""


@dataclass(frozen=True, kw_only=True)
class DreamConfig:
    """Sizes of the network; defaults are those of Omni-Diffusion (Dream-7B, extended vocabulary).

    Attributes:
        vocab_size: rows of the embedding and of the output layer.
        hidden_size: width of the residual stream.
        intermediate_size: hidden width of the feed-forward layers.
        num_hidden_layers: layers.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads, each shared by a group of query heads.
        max_position_embeddings: longest sequence in tokens.
        rope_theta: base of the rotary frequencies.
        rms_norm_eps: epsilon of the norms.
        initializer_range: standard deviation of fresh weights.
        mask_token_id: id that hides a token.
        pad_token_id: id of end-of-text, which also pads.
    """

    vocab_size: int = 176_264
    hidden_size: int = 3584
    intermediate_size: int = 18_944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    max_position_embeddings: int = 131_072
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    mask_token_id: int = 151_666
    pad_token_id: int = 151_643

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"):
            if getattr(self, name) < 1:
                raise WeightsError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.num_key_value_heads < 1 or self.num_attention_heads % self.num_key_value_heads:
            raise WeightsError(
                f"{self.num_attention_heads} query heads cannot share "
                f"{self.num_key_value_heads} key-value heads evenly"
            )
        if self.hidden_size % (2 * self.num_attention_heads):
            raise WeightsError(
                f"hidden_size {self.hidden_size} is no even multiple of "
                f"{self.num_attention_heads} heads"
            )
        for name in ("mask_token_id", "pad_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise WeightsError(f"{name} {getattr(self, name)} is not below {self.vocab_size}")

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def for_vocabulary(cls, vocabulary: Vocabulary, **sizes: Any) -> DreamConfig:
        """Sizes of one's own over a vocabulary, which settles the rows and the special ids."""
        return cls(
            vocab_size=vocabulary.size,
            mask_token_id=vocabulary.mask_id,
            pad_token_id=vocabulary.end_of_text_id,
            **sizes,
        )

    @classmethod
    def from_json(cls, path: Path) -> DreamConfig:
        """Read a published `config.json`; what it says beyond the sizes is checked or unused.

        Raises:
            WeightsError: it cannot be read, a size is of another type, or a setting asks for what
                the code cannot do.
        """
        raw = read_json(path)
        require(raw, f"{path}", _FIXED)
        # transformers 5 writes the base of the rotary frequencies one level down.
        rope = raw.get("rope_parameters")
        if isinstance(rope, dict) and "rope_theta" in rope:
            require(rope, f"{path}: rope_parameters", {"rope_type": "default"})
            raw["rope_theta"] = rope["rope_theta"]
        sizes: dict[str, Any] = {}
        for name, published in asdict(cls()).items():
            if name not in raw:
                raise WeightsError(f"{path}: {name} is missing")
            whole = type(raw[name]) is int
            if not whole and type(raw[name]) is not type(published):
                raise WeightsError(f"{path}: {name} is {raw[name]!r}, expected a number")
            sizes[name] = type(published)(raw[name])
        return cls(**sizes)

    def to_json(self) -> str:
        """The configuration as a published `config.json` has it."""
        values = {"architectures": ["DreamModel"], **_FIXED, **asdict(self)}
        return json.dumps(values, indent=2) + "\n"

    def check_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Refuse a vocabulary whose ids the model would misread.

        Raises:
            WeightsError: size, mask or end-of-text differ; says which and how.
        """
        pairs = {
            "vocab_size": (self.vocab_size, vocabulary.size),
            "mask_token_id": (self.mask_token_id, vocabulary.mask_id),
            "pad_token_id": (self.pad_token_id, vocabulary.end_of_text_id),
        }
        differing = [
            f"{name} {ours} against {theirs}"
            for name, (ours, theirs) in pairs.items()
            if ours != theirs
        ]
        if differing:
            raise WeightsError(
                f"the model does not fit the vocabulary: {'; '.join(differing)} "
                "(model against vocabulary)"
            )


def rows_before_extension(vocabulary: Vocabulary) -> int:
    """Rows that Dream's own checkpoint has learned: text and its 24 special tokens.

    Dream-7B has 152,064 rows, of which those from 151,667 on stand for nothing.
    """
    return vocabulary.text_size + len(SPECIAL_TOKENS)
