"""Rules for everything that is written with digits; after the last of them no digit is left.

Their order matters: what has a form of its own (times, dates, prices, units) goes first, and the
last rule reads what remains digit group by digit group.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from omni_diffusion.sdvi.rules.figures import NUMBER, cardinal, decimal, spelled, year
from omni_diffusion.sdvi.rules.measures import FEET, FRACTION, LENS, MONEY, SIZE, UNIT
from omni_diffusion.sdvi.rules.rule import TransformRule, substitute
from omni_diffusion.sdvi.rules.times import CLOCK, DATE, ORDINAL


def _rest(text: str) -> str:
    text = re.sub(r"#\s?(?=\d)", "number ", text)
    text = re.sub(r"(?<=\d):(?=\d)", " to ", text)
    text = re.sub(
        r"\d+(?:\.\d+){2,}", _apart(lambda d: " point ".join(map(cardinal, d.split(".")))), text
    )
    text = re.sub(r"(?<![\d,.])(?:1[1-9]|20)\d\d(?![\d,]\d|\.\d|\d)", _apart(year), text)
    return re.sub(NUMBER, _apart(lambda digits: decimal(digits.replace(",", ""))), text)


def _span(match: re.Match[str]) -> str:
    """From a lower to a higher number, or else two numbers of a name (747-400)."""
    low, high = (float(match[name].replace(",", "")) for name in ("low", "high"))
    return f"{match['low']}{' to ' if low < high else ' '}{match['high']}"


def _ranges(text: str) -> str:
    text = _SPANS(_SPANS(text))  # the second pass finds the ranges between those of the first
    return re.sub(r"(?<![\w.)\u2013-])[\u2013-](?=\.?\d)", "minus ", text)


def _apart(read: Callable[[str], str]) -> Callable[[re.Match[str]], str]:
    """A replacement that does not grow together with letters beside it."""

    def replace(match: re.Match[str]) -> str:
        before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
        return f"{' ' * before.isalpha()}{read(match[0])}{' ' * after.isalnum()}"

    return replace


_SPANS = substitute(
    rf"(?<![\w.,])(?P<low>{NUMBER})\s?[\u2013-]\s?(?P<high>{NUMBER})(?![\w.,]*\d)", _span
)

SPELLED = TransformRule(
    id="T2.digits",
    version=1,
    reason="Numbers that are names (telephones, long or zero-led runs) are read digit by digit.",
    apply=substitute(
        r"(?<![\w.,])(?:\+?\d{1,3}[ -])?\(?\d{3}\)?[ -]\d{3,4}[ -]?\d{4}(?!\w)|"
        r"(?<![\w.,])0\d+(?![\w.]\d)",
        lambda m: ", ".join(spelled(group) for group in re.findall(r"\d+", m[0])),
    ),
    examples=(
        ("call 555-123-4567", "call five five five, one two three, four five six seven"),
        ("agent 007", "agent zero zero seven"),
        ("0.5", "0.5"),
    ),
)

RANGE = TransformRule(
    id="T2.range",
    version=1,
    reason="Ranges and negative numbers.",
    apply=_ranges,
    examples=(
        ("1990-1995", "1990 to 1995"),
        ("a Boeing 747-400", "a Boeing 747 400"),
        ("It is -5 outside", "It is minus 5 outside"),
        ("from -5 to -2.5", "from minus 5 to minus 2.5"),
        ("3-year-old", "3-year-old"),
    ),
)

PLAIN = TransformRule(
    id="T2.number",
    version=1,
    reason="All other numbers: years, scores, versions, decimals, and digits inside names.",
    apply=_rest,
    examples=(
        ("In 1998, 12 cats", "In nineteen ninety-eight, twelve cats"),
        ("1,234 and 3.14", "one thousand two hundred thirty-four and three point one four"),
        ("an 8k image", "an eight k image"),
        ("the A380", "the A three hundred eighty"),
        ("#5 of 10", "number five of ten"),
        ("a score of 3:2", "a score of three to two"),
        ("version 1.2.3", "version one point two point three"),
        ("a 3-year-old", "a three-year-old"),
        ("Mark 2.", "Mark two."),
    ),
)

NUMBERS = (
    CLOCK,
    DATE,
    SPELLED,
    ORDINAL,
    RANGE,
    MONEY,
    SIZE,
    FEET,
    LENS,
    FRACTION,
    UNIT,
    PLAIN,
)
"""In the order in which they are applied."""
