"""What may be spoken, and how it is said.

Reading order: `rule` (what a rule is), `select` (what is dropped), `choice` (multiple choice),
`clean` (to a written text), `numbers` and `words` (to a spoken one), `speakable` (all in order).
"""

from omni_diffusion.sdvi.rules.rule import Dropped, DropRule, TransformRule
from omni_diffusion.sdvi.rules.speakable import (
    RULES,
    Kind,
    LengthRecipe,
    RulesRecipe,
    Spoken,
    rules_version,
    speakable,
)

__all__ = [
    "RULES",
    "DropRule",
    "Dropped",
    "Kind",
    "LengthRecipe",
    "RulesRecipe",
    "Spoken",
    "TransformRule",
    "rules_version",
    "speakable",
]
