"""Rules for times of day, dates and decades."""

from __future__ import annotations

import re

from omni_diffusion.sdvi.rules.figures import cardinal, decade, ordinal, year
from omni_diffusion.sdvi.rules.rule import TransformRule, substitute

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)

_MONTH = "|".join(f"{name}|{name[:3]}\\.?" for name in _MONTHS) + r"|Sept\.?"

_YEAR = r"(?P<year>1\d{3}|20\d\d)"


def _clock(match: re.Match[str]) -> str:
    hour, minute, half = match["hour"], match["minute"], match["half"] or ""
    words = cardinal(str(int(hour)))
    if minute and int(minute):
        words += f" oh {cardinal(str(int(minute)))}" if minute[0] == "0" else f" {cardinal(minute)}"
    elif minute and not half:
        words += " o'clock" if 1 <= int(hour) <= 12 else " hundred"
    return f"{words} {half[0].upper()} M" if half else words


def _date(month: int, day: str, years: str | None) -> str:
    words = f"{_MONTHS[month - 1]} {ordinal(day)}"
    return f"{words}, {year(years)}" if years else words


def _iso_date(match: re.Match[str]) -> str:
    month, day = int(match["month"]), int(match["day"])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return match[0]
    return _date(month, str(day), match["year"])


def _slash_date(match: re.Match[str]) -> str:
    """Month first, as in America, unless only the other order is a date."""
    month, day = int(match["first"]), int(match["second"])
    if month > 12 >= day:
        month, day = day, month
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return match[0]
    return _date(month, str(day), match["year"])


def _named_date(match: re.Match[str]) -> str:
    month = next(i for i, m in enumerate(_MONTHS, 1) if m[:3] == match["month"][:3])
    return _date(month, match["day"], match["year"])


_DATES = (
    substitute(rf"\b{_YEAR}-(?P<month>\d\d)-(?P<day>\d\d)\b", _iso_date),
    substitute(rf"\b(?P<first>\d\d?)/(?P<second>\d\d?)/{_YEAR}\b", _slash_date),
    substitute(
        rf"\b(?P<month>{_MONTH})\s(?P<day>[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?\b(?![:.]\d)"
        rf"(?:,?\s{_YEAR}\b)?",
        _named_date,
    ),
    substitute(
        rf"\b(?P<day>[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?\s(?:of\s)?(?P<month>{_MONTH})(?![\w.])"
        rf"(?:,?\s{_YEAR}\b)?",
        _named_date,
    ),
)

_ORDINALS = substitute(r"\b(?P<n>\d{1,6})(?:st|nd|rd|th)\b", lambda m: ordinal(m["n"]))

_DECADES = substitute(r"(?<!\w)'?(?P<n>(?:1[1-9]|20)\d0|[2-9]0)'?s\b", lambda m: decade(m["n"]))

CLOCK = TransformRule(
    id="T2.time",
    version=1,
    reason="Times of day.",
    apply=substitute(
        r"(?<![\d:.$])(?P<hour>[01]?\d|2[0-3])(?::(?P<minute>[0-5]\d))?"
        r"(?:(?<=:\d\d)(?![\d:])|(?=\s?[ap]\.?m\b))(?:\s?(?P<half>[ap])\.?m\b(?:\.(?=\s[a-z]|,))?)?",
        _clock,
        re.IGNORECASE,
    ),
    examples=(
        ("at 10:30 a.m. today", "at ten thirty A M today"),
        ("at 5pm", "at five P M"),
        ("The clock shows 14:05.", "The clock shows fourteen oh five."),
        ("It is 3:00.", "It is three o'clock."),
        ("a ratio of 16:9", "a ratio of 16:9"),
    ),
)

DATE = TransformRule(
    id="T2.date",
    version=1,
    reason="Dates, month first where only the order of the numbers could tell.",
    apply=lambda text: _DATES[3](_DATES[2](_DATES[1](_DATES[0](text)))),
    examples=(
        ("on 2024-05-12", "on May twelfth, twenty twenty-four"),
        ("on 5/12/2024", "on May twelfth, twenty twenty-four"),
        ("on 25/12/2024", "on December twenty-fifth, twenty twenty-four"),
        ("on May 12, 2005,", "on May twelfth, two thousand five,"),
        ("on 1 Jan. 1999", "on January first, nineteen ninety-nine"),
        ("March 3rd", "March third"),
        ("99/99/2024", "99/99/2024"),
    ),
)

ORDINAL = TransformRule(
    id="T2.ordinal",
    version=1,
    reason="Ordinals and decades.",
    apply=lambda text: _DECADES(_ORDINALS(text)),
    examples=(
        ("the 21st century", "the twenty-first century"),
        ("in the 1990s", "in the nineteen nineties"),
        ("the '80s", "the eighties"),
    ),
)
