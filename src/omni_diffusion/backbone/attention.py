"""Attention without a causal mask, inside each sample of a packed row and nowhere else.

Samples lie one after the other in one flat row of T tokens, without padding between them; a
`Segments` object says where each begins. On the CPU every run of equally long segments is one call
of PyTorch's scaled dot product attention, which is the reference. On a GPU it is one FlexAttention
call whose block mask holds the diagonal blocks only. Tail pads, where a caller wants rows of one
length, are a segment of their own and so invisible to every sample. (The published code lets the
last sample of a row attend to them.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from omni_diffusion.errors import OmniError


class Run(NamedTuple):
    """Neighbouring segments of one shape."""

    samples: int
    queries: int
    keys: int


class Segments:
    """Where the samples of a packed row lie.

    Attributes:
        lengths: tokens of each sample.
        key_lengths: keys that each sample attends to: its own tokens, or more of them where a
            cache holds some that are not computed again.
        first_positions: position of each sample's first query; 0 unless a cache holds those before.
        device: of the tensors below.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        device: torch.device | str = "cpu",
        key_lengths: Sequence[int] | None = None,
        first_positions: Sequence[int] | None = None,
    ) -> None:
        """Describe a row of samples of these lengths.

        Raises:
            OmniError: there is no sample, or one without tokens.
        """
        self.lengths = tuple(lengths)
        self.key_lengths = self.lengths if key_lengths is None else tuple(key_lengths)
        self.first_positions = tuple(first_positions or (0,) * len(self.lengths))
        self.device = torch.device(device)
        if not self.lengths or min(*self.lengths, *self.key_lengths) < 1:
            raise OmniError(f"segments must hold tokens: lengths {list(self.lengths)}")

    @classmethod
    def from_positions(cls, positions: Tensor) -> Segments:
        """Segments of a row in which a new sample begins wherever the position is 0.

        Args:
            positions: integers [T], on the device of the row.

        Raises:
            OmniError: the row does not begin at position 0.
        """
        if not len(positions) or int(positions[0]) != 0:
            raise OmniError("a packed row must begin with position 0")
        starts = torch.nonzero(positions == 0)[:, 0].tolist()
        ends = [*starts[1:], len(positions)]
        return cls([e - s for s, e in zip(starts, ends, strict=True)], positions.device)

    @classmethod
    def from_bounds(cls, bounds: Sequence[int], device: torch.device | str = "cpu") -> Segments:
        """Segments between neighbouring bounds (`cu_seqlens`), the first of which is 0."""
        return cls([end - start for start, end in pairwise(bounds)], device)

    @property
    def total(self) -> int:
        """Tokens in the row."""
        return sum(self.lengths)

    @cached_property
    def starts(self) -> Tensor:
        """First token of each sample, int64 [n]."""
        lengths = torch.tensor(self.lengths)
        return (lengths.cumsum(0) - lengths).to(self.device)

    @cached_property
    def positions(self) -> Tensor:
        """Position of every token in its sample, int64 [T]."""
        pairs = zip(self.first_positions, self.lengths, strict=True)
        return torch.cat([torch.arange(p, p + n) for p, n in pairs]).to(self.device)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The segments with neighbours of one shape counted together."""
        pairs = zip(self.lengths, self.key_lengths, strict=True)
        return tuple(Run(len(list(group)), *shape) for shape, group in groupby(pairs))

    @cached_property
    def block_mask(self) -> BlockMask:
        """The diagonal blocks, for FlexAttention."""
        of_query, of_key = (
            torch.repeat_interleave(
                torch.arange(len(lengths), device=self.device),
                torch.tensor(lengths, device=self.device),
            )
            for lengths in (self.lengths, self.key_lengths)
        )

        def same_sample(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return of_query[query] == of_key[key]

        return create_block_mask(
            same_sample, None, None, len(of_query), len(of_key), device=self.device.type
        )


def attend(query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> Tensor:
    """Softmax attention of every token to all tokens of its own sample.

    Args:
        query: [T, heads, head size], rotary positions applied.
        key: [S, key-value heads, head size]; S is T unless `segments` has other key lengths.
        value: like `key`.
        segments: where the samples lie.

    Returns:
        [T, heads, head size].
    """
    if query.device.type == "cuda":
        return attend_flex(query, key, value, segments, _compiled_flex())
    return attend_segments(query, key, value, segments)


def attend_segments(query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> Tensor:
    """The reference: one dense attention for each run of equally long samples."""
    outputs = []
    at_query = at_key = 0
    for run in segments.runs:
        end_query, end_key = at_query + run.samples * run.queries, at_key + run.samples * run.keys
        q, k, v = (
            x[start:end].view(run.samples, -1, *x.shape[1:]).transpose(1, 2)
            for x, start, end in (
                (query, at_query, end_query),
                (key, at_key, end_key),
                (value, at_key, end_key),
            )
        )
        out = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        outputs.append(out.transpose(1, 2).flatten(0, 1))
        at_query, at_key = end_query, end_key
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def attend_flex(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, kernel: Any = flex_attention
) -> Tensor:
    """The same by FlexAttention, which computes the diagonal blocks in one call."""
    q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
    attended: Tensor = kernel(q, k, v, block_mask=segments.block_mask, enable_gqa=True)
    return attended[0].transpose(0, 1)


@cache
def _compiled_flex() -> Any:
    """FlexAttention is only fast, and only saves memory, when compiled."""
    return torch.compile(flex_attention, dynamic=True)


def rotary_tables(positions: Tensor, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles (arXiv 2104.09864), in float32.

    Args:
        positions: integers [T].
        head_size: width of one head.
        theta: base of the frequencies.

    Returns:
        Two tensors [T, 1, head size]; the second half repeats the first.
    """
    exponents = torch.arange(0, head_size, 2, device=positions.device).float() / head_size
    angles = positions[:, None].float() * theta**-exponents
    angles = torch.cat((angles, angles), dim=-1)[:, None]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Apply rotary positions to [T, heads, head size], pairing the two halves of each head."""
    cos, sin = (table.to(x.dtype) for table in tables)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
