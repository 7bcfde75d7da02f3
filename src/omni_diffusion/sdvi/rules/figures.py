"""Digits to words: one number, read in each of the ways that English has for it.

A thin layer over `num2words`, which writes British English ("one hundred and five"); American
voices and recognisers agree on the shorter form.
"""

from __future__ import annotations

from typing import Literal

from num2words import num2words

_LONGEST = 12
"""Whole numbers of more digits are read digit by digit, as are those that begin with a zero."""

NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
"""A pattern: with or without separators and fraction."""

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def cardinal(digits: str) -> str:
    """A whole number, with or without separators: "1,250" is "one thousand two hundred fifty"."""
    digits = digits.replace(",", "")
    if len(digits) > _LONGEST or (len(digits) > 1 and digits[0] == "0"):
        return spelled(digits)
    return _words(int(digits), "cardinal")


def decimal(number: str) -> str:
    """A number with an optional fraction: "3.14" is "three point one four"."""
    whole, point, fraction = number.partition(".")
    return cardinal(whole or "0") + (f" point {spelled(fraction)}" if point else "")


def ordinal(digits: str) -> str:
    """The 21st: "twenty-first"."""
    return _words(int(digits.replace(",", "")), "ordinal")


def year(digits: str) -> str:
    """The year 1998: "nineteen ninety-eight"."""
    return _words(int(digits), "year").replace("oh-", "oh ")


def decade(digits: str) -> str:
    """The 1990s: "nineteen nineties"; the 80s: "eighties"."""
    words = year(digits) if len(digits) == 4 else cardinal(digits)
    return f"{words[:-1]}ies" if words.endswith("y") else f"{words}s"


def spelled(digits: str) -> str:
    """Digit by digit: "007" is "zero zero seven"."""
    return " ".join(_DIGITS[int(digit)] for digit in digits)


def counted(number: str, singular: str, plural: str) -> str:
    """A number with its noun: "one gram", "two grams", "zero point five grams"."""
    return f"{decimal(number)} {singular if number == '1' else plural}"


def _words(value: int, form: Literal["cardinal", "ordinal", "year"]) -> str:
    words = str(num2words(value, lang="en", to=form))
    return words.replace(",", "").replace(" and ", " ")
