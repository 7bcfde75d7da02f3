"""Scores of questions with few answers, by the rules of those who published the questions.

POPE        an answer is "no" if its first sentence has the word no, No or not, else "yes"; "yes" is
            the positive class (its evaluate.py).
MME         an answer is yes or no by its first four characters, in lower case, else neither. A
            picture has two questions; a subtask scores 100 (accuracy + share of pictures with
            both right), perception is the sum of its ten (its calculation.py): 2,000 at most.
SEED-2-Plus accuracy over all and over charts, maps and webs. Its own script asks for the likelihood
            of each choice; here the letter is taken from the answer, or the one choice that the
            answer spells out, as later evaluations do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from omni_diffusion.generation.evaluation.layouts import LETTERS, PERCEPTION


def pope_answer(text: str) -> str:
    """Yes or no, as POPE reads an answer."""
    words = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def pope_scores(answers: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and share of yes, of answers that are yes or no."""
    pairs = list(zip(answers, labels, strict=True))
    hits = sum(a == b == "yes" for a, b in pairs)
    said = sum(a == "yes" for a, _ in pairs)
    true = sum(b == "yes" for _, b in pairs)
    precision, recall = _ratio(hits, said), _ratio(hits, true)
    return {
        "accuracy": _ratio(sum(a == b for a, b in pairs), len(pairs)),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * precision * recall, precision + recall),
        "yes_ratio": _ratio(said, len(pairs)),
    }


def mme_answer(text: str) -> str:
    """Yes, no or other, as MME reads an answer."""
    lowered = text.strip().lower()
    if lowered in ("yes", "no"):
        return lowered
    start = lowered[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def mme_scores(rows: Iterable[tuple[str, str, str, str]]) -> dict[str, Any]:
    """Scores of MME.

    Args:
        rows: subtask, picture, answer as `mme_answer` gives it, and what is right.

    Returns:
        `perception`, and for each subtask accuracy, accuracy+ and score.
    """
    tasks: dict[str, dict[str, list[bool]]] = {}
    for subtask, picture, answer, label in rows:
        tasks.setdefault(subtask, {}).setdefault(picture, []).append(answer == label)
    found = {}
    for subtask, pictures in tasks.items():
        rights = [right for of_picture in pictures.values() for right in of_picture]
        accuracy = 100 * _ratio(sum(rights), len(rights))
        both = 100 * _ratio(sum(map(all, pictures.values())), len(pictures))
        found[subtask] = {"acc": accuracy, "acc_plus": both, "score": accuracy + both}
    total = sum(found[name]["score"] for name in PERCEPTION if name in found)
    return {"perception": total, "subtasks": found}


def seed_answer(text: str, choices: Sequence[str]) -> str:
    """The letter that an answer names, or "" for none."""
    stripped = text.strip()
    match = re.match(r"\(?([A-D])\)?(?![A-Za-z])", stripped)
    if match:
        return match[1]
    spelled = [
        letter
        for letter, choice in zip(LETTERS, choices, strict=True)
        if choice.strip() and choice.strip().lower() in stripped.lower()
    ]
    return spelled[0] if len(spelled) == 1 else ""


def group_accuracy(rows: Sequence[tuple[str, bool]]) -> dict[str, float]:
    """Accuracy over all and by group, in percent."""
    groups: dict[str, list[bool]] = {}
    for group, right in rows:
        groups.setdefault(group, []).append(right)
    found = {"accuracy": 100 * _ratio(sum(r for _, r in rows), len(rows))}
    for name in sorted(groups):
        if name:
            found[name] = 100 * _ratio(sum(groups[name]), len(groups[name]))
    return found


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share, by default of 95 % (Wilson 1927): fit for few questions."""
    if not total:
        return 0.0, 1.0
    share = right / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return (centre - spread) / scale, (centre + spread) / scale


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
