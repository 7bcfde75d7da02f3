"""Rules that drop: what cannot be spoken, or what the paper leaves out (math and programming)."""

from __future__ import annotations

import re
import unicodedata

from omni_diffusion.sdvi.rules.rule import DropRule, first_match, shorten

MAX_CHARACTERS = 5_000
"""A longer text is not looked at: no sentence for speech needs it, and patterns cost time."""

_FOREIGN_SHARE = 0.1


def _broken(text: str) -> str | None:
    """A control character, half a surrogate pair, or a character that does not exist."""
    for character in text:
        category = unicodedata.category(character)
        if category in ("Cs", "Co", "Cn") or (category == "Cc" and character not in "\t\n\r"):
            return f"U+{ord(character):04X}"
    return None


def _foreign(text: str) -> str | None:
    letters = [c for c in text if c.isalpha()]
    foreign = [c for c in letters if not unicodedata.name(c, "").startswith(("LATIN", "FULLWIDTH"))]
    if len(foreign) > _FOREIGN_SHARE * len(letters):
        return shorten("".join(foreign), 20)
    return None


SIZE = DropRule(
    id="R0.size",
    version=1,
    reason="Longer than any utterance can be; not looked at any further.",
    find=lambda text: f"{len(text)} characters" if len(text) > MAX_CHARACTERS else None,
    dropped=("word " * 1001,),
    kept=("word " * 900,),
)

BROKEN = DropRule(
    id="R0.characters",
    version=1,
    reason="Control characters and halves of characters are damage, not text.",
    find=_broken,
    dropped=("What is\x07 this?", "a \ud83d cat", "x\x00y"),
    kept=("Two\nlines\tand a tab", "\u201cquoted\u201d \U0001f408"),
)

CODE = DropRule(
    id="R1.code",
    version=1,
    reason="Programs, markup and tables are not speech (the paper drops programming).",
    find=first_match(
        r"```",
        r"^\s*(?:def|class)\s+\w+.*:\s*$",
        r"^\s*(?:import|from)\s+[\w.]+(?:\s+import\s.*)?;?$",
        r"#include\b|\bpublic\s+static\b|\bconsole\.log\b|\bstd::",
        r"\bfunction\s*\w*\s*\(|\b\w+\(\)|\bprintf?\(",
        r"\bSELECT\b.+\bFROM\b",
        r"[{}]|=>|==|!=|&&|\|\||;\s*$",
        r"</?[A-Za-z!][^<>\n]*>",
        r"^\s*\|.*\|\s*$",
        r"!\[[^\]]*\]\(",
        r"\b(?:source code|pseudo-?code|code snippet|programming language)s?\b",
        r"\b(?:[Pp]ython|Java|[Jj]ava[Ss]cript|HTML|SQL) (?:code|function|script|program)s?\b",
        flags=re.MULTILINE,
    ),
    dropped=(
        "```print(1)```",
        "def area(r):\n    return 3",
        "<speak><break time='3s'/>Hello</speak>",
        "| a | b |\n|---|---|",
        "Look: ![cat](cat.png)",
        "Write Python code for this chart.",
        "SELECT name FROM users",
    ),
    kept=(
        "Define the role of the class of students.",
        "The functions of the heart are shown in the picture.",
        "A python is lying on a code lock.",
        "Is a < b a fair reading of this?",
    ),
)

MATH = DropRule(
    id="R2.math",
    version=1,
    reason="Formulas and calculations (the paper drops mathematical computation).",
    find=first_match(
        r"\\(?:frac|sqrt|begin|end|times|cdot|left|right|text|pi|theta|alpha|angle|[(\[])",
        r"\$[^$\d\s][^$]*\$",
        r"[\u2200-\u22ff\u03c0\u221a\u25b3\u00d7\u00f7]\s*[A-Z\d(]",
        r"\w\s*\^\s*[\w({]",
        r"\d\s*[+*\u00d7\u00f7]\s*\d",
        r"(?<![\w-])[A-Za-z]\w?\s*=\s*[-\w(]|[\d)]\s*=\s*[-\w(?]",
        r"(?i:\b(?:solve for|calculate|compute|simplify|evaluate) (?:the |[a-z]\b|\d))",
        r"(?i:\b(?:equations?|derivatives?|integrals?|hypotenuse|logarithms?|polynomials?)\b)",
        r"(?i:\b(?:perimeter|area|circumference|volume) of (?:the |a |this )?(?:shaded |given )?"
        r"(?:triangle|circle|square|rectangle|figure|sphere|cylinder|cone|cube|trapezoid|region))",
        r"\b(?:cm|m|mm|in|ft)\s?[\u00b2\u00b3]?\s*[*\u00d7]",
    ),
    dropped=(
        r"What is \frac{1}{2} of it?",
        "Find $x + y$ in the picture.",
        "Solve for x in the diagram.",
        "So 3 + 4 = 7 apples.",
        "If AB = 12, how long is CD?",
        "What is the area of the triangle?",
        "Calculate the total.",
        "It grows as x^2.",
    ),
    kept=(
        "What shape is this, a triangle or a circle?",
        "It costs $3.50, or $4 with milk.",
        "What is in the shaded area of the picture?",
        "How many apples are there?",
        "A picture of 1920x1080 pixels.",
    ),
)

ADDRESS = DropRule(
    id="R3.address",
    version=1,
    reason="Addresses, paths and hashes are spelled, not spoken.",
    find=first_match(
        r"(?i:\b(?:https?|ftp)://|\bwww\.)\S*",
        r"(?i:\b[\w-]+\.(?:com|org|net|edu|gov|io|html?|jpe?g|png|pdf|exe|py)\b)",
        r"\S*@\S+",
        r"(?:^|\s)[~.]?/[\w.-]+/[\w./-]*",
        r"\b[A-Za-z]:\\\S*|\\\\\w+",
        r"\b(?=[0-9a-fA-F]*\d)(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{12,}\b",
    ),
    dropped=(
        "See https://example.org/a for more.",
        "Write to someone@example.org",
        "It is in /usr/share/images here.",
        r"Open C:\pictures\cat",
        "id 3fa85f6457174562b3fc",
        "The site is example.com today.",
    ),
    kept=(
        "Black and/or white.",
        "He said no. Come in.",
        "He drove at 40 km/h.",
        "The defaced facade.",
    ),
)

LANGUAGE = DropRule(
    id="R4.language",
    version=1,
    reason="More than a tenth of the letters are of another script than Latin.",
    find=_foreign,
    dropped=("\u4ec0\u4e48?", "\u0645\u0627 \u0647\u0630\u0627", "What \u044d\u0442\u043e is"),
    kept=(
        "A caf\u00e9 in Malm\u00f6.",
        "The letter \u03b1 is the first one of the Greek alphabet.",
    ),
)

COORDINATES = DropRule(
    id="R6.coordinates",
    version=1,
    reason="Boxes, coordinates and lists of read-out tokens are data, not speech.",
    find=first_match(
        r"\[\s*-?\d*\.?\d+(?:\s*,\s*-?\d*\.?\d+){1,}\s*\]",
        r"\(\s*-?\d*\.?\d+(?:\s*,\s*-?\d*\.?\d+){1,}\s*\)",
        r"(?i:\bbounding box|\bbbox\b|\bOCR tokens?\b)",
        r"(?i:\b[xy]_?(?:min|max)\b)",
    ),
    dropped=(
        "[0.12, 0.30, 0.55, 0.90]",
        "Where is it? At (120, 64).",
        "Provide the bounding box of the dog.",
        "Reference OCR token: STOP, 24",
    ),
    kept=("A box (a red one) is here.", "In 2004 (May) it rained [sic].", "Between 3, 4 and 5."),
)

FIRST = (SIZE, BROKEN)
CONTENT = (CODE, MATH, ADDRESS, LANGUAGE, COORDINATES)
