"""Training the way the published code does it, to measure against.

Kept from the published trainer: samples of each source are packed next-fit into a row of 3,072 by
a buffer of that source; a row is padded to its length with end-of-text ids that continue the last
sample's positions; every supervised token is hidden by a coin of its own; attention is dense, under
a mask of [L, L] integers that is made for every row; and all positions go through the output layer.
The network is Hugging Face's Qwen2, whose keys Dream's weights fit, without the causal mask.

Left out, in its favour: tokenizing on line (samples are read from our shards), encoding every
picture twice, and batches that came back empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.sample import BY_NAME
from omni_diffusion.tokenize.chat import ChatTemplate
from omni_diffusion.tokenize.spans import from_corpus
from omni_diffusion.training.masking import published_masked, published_threshold

ROW = 3072
MOST_PADS = 16
GAMMA = 0.6
IGNORED = -100


@dataclass(kw_only=True)
class Row:
    """What a source has gathered: ids, what is supervised, what is a tail pad, and where."""

    ids: list[NDArray[Any]] = field(default_factory=list)
    supervised: list[NDArray[Any]] = field(default_factory=list)
    tail: list[NDArray[Any]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    useful: int = 0

    def add(self, ids: NDArray[Any], supervised: NDArray[Any], pads: int, end: int) -> None:
        """Put a sample and its tail pads at the end."""
        self.ids += [ids, np.full(pads, end)]
        self.supervised += [supervised, np.ones(pads, np.bool_)]
        self.tail += [np.zeros(len(ids), np.bool_), np.ones(pads, np.bool_)]
        self.lengths.append(len(ids) + pads)
        self.useful += len(ids)


def rows(root: str, template: ChatTemplate, seed: int, length: int = ROW) -> Iterator[Row]:
    """Rows, endlessly: samples in a shuffled order, one buffer for each kind of sample."""
    corpus, rng = Corpus(root), np.random.default_rng(seed)
    buffers: dict[tuple[str, ...], Row] = {}
    end = template.vocabulary.end_of_text_id
    while True:
        for number in rng.permutation(len(corpus)):
            sample = corpus.sample(int(number))
            table = from_corpus(sample.key, sample.spans)
            streams = {BY_NAME[name].code: stream for name, stream in sample.streams.items()}
            sequence = template.assemble(sample.key, table, streams)
            pads = int(rng.integers(1, MOST_PADS + 1))
            source = tuple(sorted(sample.streams))
            row = buffers.setdefault(source, Row())
            if sum(row.lengths) + len(sequence.ids) + pads > length:
                yield buffers.pop(source)
                row = buffers[source] = Row()
            row.add(sequence.ids, sequence.supervised, pads, end)


@dataclass(kw_only=True)
class Inputs:
    """One row as the published collator hands it over."""

    ids: Tensor
    labels: Tensor
    positions: Tensor
    mask: Tensor


def collate(
    row: Row, rng: np.random.Generator, end: int, mask_id: int, length: int = ROW
) -> Inputs:
    """Pad, hide, and build the dense mask."""
    used = sum(row.lengths)
    ids = np.full(length, end)
    ids[:used] = np.concatenate(row.ids)
    supervised, tail = np.zeros(length, np.bool_), np.zeros(length, np.bool_)
    supervised[:used], tail[:used] = np.concatenate(row.supervised), np.concatenate(row.tail)
    threshold = published_threshold(rng.random(length))
    hidden = supervised & published_masked(rng.random(length), threshold, tail, GAMMA)
    segment = np.repeat(np.arange(len(row.lengths)), row.lengths)
    positions = np.concatenate([np.arange(n) for n in row.lengths])
    rest = length - used
    segment = np.append(segment, np.full(rest, segment[-1]))
    positions = np.append(positions, positions[-1] + 1 + np.arange(rest))
    dense = torch.zeros(1, length, length, dtype=torch.int64)
    for number in range(len(row.lengths)):
        where = torch.from_numpy(np.flatnonzero(segment == number))
        dense[0, where[0] : where[-1] + 1, where[0] : where[-1] + 1] = 1
    return Inputs(
        ids=torch.from_numpy(np.where(hidden, mask_id, ids))[None],
        labels=torch.from_numpy(np.where(hidden, ids, IGNORED))[None],
        positions=torch.from_numpy(positions)[None],
        mask=dense,
    )


def qwen2(config: DreamConfig, weights: dict[str, Tensor]) -> Any:
    """Hugging Face's network with the weights of ours."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    names = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps"),
        *("num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
    )
    values: dict[str, Any] = {name: getattr(config, name) for name in names}
    settings = Qwen2Config(
        **values,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=False,
        use_cache=False,
    )
    settings._attn_implementation = "sdpa"
    model = Qwen2ForCausalLM(settings)
    model.load_state_dict(weights)
    return model


def loss_of(model: Any, inputs: Inputs) -> Tensor:
    """Mean over the hidden tokens, from the logits of all positions (row i predicts i + 1)."""
    logits = logits_of(model, inputs)[0, :-1].float()
    return functional.cross_entropy(logits, inputs.labels[0, 1:], ignore_index=IGNORED)


def logits_of(model: Any, inputs: Inputs) -> Tensor:
    """Scores of every id at every position: [1, L, vocabulary]."""
    found: Tensor = model(
        input_ids=inputs.ids,
        attention_mask=inputs.mask[:, None].bool(),
        position_ids=inputs.positions,
    ).logits
    return found
