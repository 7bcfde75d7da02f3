"""Word error rate as speech papers give it: Whisper's English normalizer, then edit distance.

Errors of all texts are added and divided by the words of all references, so a long text counts for
more than a short one. References without a word after normalization are left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from omni_diffusion.errors import RecipeError

_HINT = "pip install 'omni-diffusion[evaluate]'"


@dataclass(frozen=True, kw_only=True)
class WordErrors:
    """Of all texts together.

    Attributes:
        wer: errors / words; above 1 where more is heard than was said.
        substitutions: words that are others.
        deletions: words that are missing.
        insertions: words too many.
        words: of the references.
        texts: that were compared.
        skipped: references without a word.
    """

    wer: float
    substitutions: int
    deletions: int
    insertions: int
    words: int
    texts: int
    skipped: int

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"wer": round(self.wer, 6)}


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> WordErrors:
    """Compare texts pair by pair.

    Raises:
        RecipeError: jiwer or whisper-normalizer is not installed.
    """
    try:
        import jiwer
    except ImportError as error:
        raise RecipeError(f"word error rate: {error}; {_HINT}") from None
    normalize = normalizer()
    pairs = [
        (normalize(said), normalize(heard))
        for said, heard in zip(references, hypotheses, strict=True)
    ]
    # The normalizer keeps lone full stops.
    kept = [(said, heard) for said, heard in pairs if any(map(str.isalnum, said))]
    if not kept:
        return WordErrors(
            wer=0.0,
            substitutions=0,
            deletions=0,
            insertions=0,
            words=0,
            texts=0,
            skipped=len(pairs),
        )
    found = jiwer.process_words([said for said, _ in kept], [heard for _, heard in kept])
    words = found.hits + found.substitutions + found.deletions
    return WordErrors(
        wer=(found.substitutions + found.deletions + found.insertions) / words,
        substitutions=found.substitutions,
        deletions=found.deletions,
        insertions=found.insertions,
        words=words,
        texts=len(kept),
        skipped=len(pairs) - len(kept),
    )


@cache
def normalizer() -> Any:
    """Whisper's normalizer of English."""
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise RecipeError(f"word error rate: {error}; {_HINT}") from None
    return EnglishTextNormalizer()
