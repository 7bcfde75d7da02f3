"""Rules for quantities: money, sizes, lenses, fractions and units."""

from __future__ import annotations

import re

from omni_diffusion.sdvi.rules.figures import NUMBER, cardinal, counted, decimal, year
from omni_diffusion.sdvi.rules.rule import TransformRule, substitute

_CURRENCIES = {
    "US$": ("dollar", "dollars", "cent", "cents"),
    "$": ("dollar", "dollars", "cent", "cents"),
    "\u20ac": ("euro", "euros", "cent", "cents"),
    "\u00a3": ("pound", "pounds", "penny", "pence"),
    "\u00a5": ("yen", "yen", "sen", "sen"),
    "\u20b9": ("rupee", "rupees", "paisa", "paise"),
}

_SCALES = {"k": "thousand", "m": "million", "bn": "billion", "b": "billion"}

_UNITS = {
    "mm": ("millimeter", ""),
    "cm": ("centimeter", ""),
    "m": ("meter", ""),
    "km": ("kilometer", ""),
    "in": ("inch", "inches"),
    "ft": ("foot", "feet"),
    "yd": ("yard", ""),
    "mi": ("mile", ""),
    "mg": ("milligram", ""),
    "g": ("gram", ""),
    "kg": ("kilogram", ""),
    "oz": ("ounce", ""),
    "lb": ("pound", ""),
    "lbs": ("pound", ""),
    "ml": ("milliliter", ""),
    "mL": ("milliliter", ""),
    "cl": ("centiliter", ""),
    "l": ("liter", ""),
    "L": ("liter", ""),
    "ms": ("millisecond", ""),
    "s": ("second", ""),
    "sec": ("second", ""),
    "min": ("minute", ""),
    "mins": ("minute", ""),
    "h": ("hour", ""),
    "hr": ("hour", ""),
    "hrs": ("hour", ""),
    "yrs": ("year", ""),
    "mph": ("mile per hour", "miles per hour"),
    "mpg": ("mile per gallon", "miles per gallon"),
    "kph": ("kilometer per hour", "kilometers per hour"),
    "km/h": ("kilometer per hour", "kilometers per hour"),
    "kmh": ("kilometer per hour", "kilometers per hour"),
    "m/s": ("meter per second", "meters per second"),
    "Hz": ("hertz", "hertz"),
    "kHz": ("kilohertz", "kilohertz"),
    "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"),
    "KB": ("kilobyte", ""),
    "MB": ("megabyte", ""),
    "GB": ("gigabyte", ""),
    "TB": ("terabyte", ""),
    "MP": ("megapixel", ""),
    "px": ("pixel", ""),
    "W": ("watt", ""),
    "kW": ("kilowatt", ""),
    "kWh": ("kilowatt hour", ""),
    "V": ("volt", ""),
    "kcal": ("kilocalorie", ""),
    "cal": ("calorie", ""),
    "dB": ("decibel", ""),
    "\u00b0C": ("degree Celsius", "degrees Celsius"),
    "\u00b0F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "\u00b0": ("degree", ""),
    "%": ("percent", "percent"),
}

_POWERS = {"\u00b2": "square", "\u00b3": "cubic"}

_FRACTIONS = {"1/2": "one half", "1/4": "one quarter", "3/4": "three quarters"}

_SIGNS = {"\u00bd": "1/2", "\u00bc": "1/4", "\u00be": "3/4"}


def _money(match: re.Match[str]) -> str:
    one, many, cent, cents = _CURRENCIES[match["sign"]]
    amount, scale = match["amount"].replace(",", ""), match["scale"]
    if scale:
        return f"{decimal(amount)} {_SCALES.get(scale.lower(), scale)} {many}"
    whole, _, fraction = amount.partition(".")
    if fraction and len(fraction) != 2:
        return f"{decimal(amount)} {many}"
    parts = [counted(whole, one, many)] if int(whole or 0) or not int(fraction or 0) else []
    if int(fraction or 0):
        parts.append(counted(str(int(fraction)), cent, cents))
    return " and ".join(parts)


def _measure(match: re.Match[str]) -> str:
    one, many = _UNITS[match["unit"]]
    many = one if match["hyphen"] == "-" else many or f"{one}s"
    words = counted(match["number"].replace(",", ""), one, many)
    if power := match["power"]:
        first, _, rest = words.rpartition(" ")
        words = f"{first} {_POWERS[power]} {rest}"
    return words


def _feet(match: re.Match[str]) -> str:
    feet = counted(match["feet"], "foot", "feet")
    return f"{feet} {cardinal(match['inches'])}" if match["inches"] else feet


def _fraction(match: re.Match[str]) -> str:
    whole, share = match["whole"], match["share"]
    if share not in _FRACTIONS:
        top, bottom = share.split("/")
        return f"{match[0][: -len(share)]}{cardinal(top)} over {cardinal(bottom)}"
    words = _FRACTIONS[share]
    if whole:
        return f"{cardinal(whole.strip())} and {words.replace('one ', 'a ')}"
    return words


def _unfold_fractions(text: str) -> str:
    for sign, written in _SIGNS.items():
        text = re.sub(rf"(?<=\d){sign}", f" {written}", text).replace(sign, written)
    return text


def _sizes(match: re.Match[str]) -> str:
    """Pixels in pairs of digits; anything else as numbers."""

    def side(digits: str) -> str:
        return (
            year(digits) if re.fullmatch(r"[1-9]\d[1-9]\d|[1-9]\d\d0", digits) else decimal(digits)
        )

    words = f"{side(match['width'])} by {side(match['height'])}"
    return f"{words} by {side(match['depth'])}" if match["depth"] else words


_AMOUNT = rf"(?P<amount>{NUMBER})"

_SIGN = r"(?P<sign>US\$|[$\u20ac\u00a3\u00a5\u20b9])"

_SCALE = r"(?:\s?(?P<scale>thousand|million|billion|trillion|[kKmMbB]n?\b))?"

_SIGN_FIRST = substitute(rf"{_SIGN}\s?{_AMOUNT}{_SCALE}", _money)

_SIGN_LAST = substitute(rf"{_AMOUNT}{_SCALE}\s?{_SIGN}", _money)

_SIZES = substitute(
    r"(?<![\w.])(?P<width>\d+(?:\.\d+)?)\s?[x\u00d7]\s?(?P<height>\d+(?:\.\d+)?)"
    r"(?:\s?[x\u00d7]\s?(?P<depth>\d+(?:\.\d+)?))?(?!\w)",
    _sizes,
)

_fractions = substitute(
    r"(?P<whole>(?<![\d/.])\d+\s)?(?<![\d/.])(?P<share>\d{1,3}/\d{1,3})(?![\d/])", _fraction
)

MONEY = TransformRule(
    id="T2.currency",
    version=1,
    reason="Amounts of money.",
    apply=lambda text: _SIGN_LAST(_SIGN_FIRST(text)),
    examples=(
        ("It costs $3.50.", "It costs three dollars and fifty cents."),
        ("only $1", "only one dollar"),
        ("\u00a30.99", "ninety-nine pence"),
        ("$1,200", "one thousand two hundred dollars"),
        ("\u20ac2.5 million", "two point five million euros"),
        ("$5k", "five thousand dollars"),
        ("5 \u20ac", "five euros"),
    ),
)

SIZE = TransformRule(
    id="T2.size",
    version=1,
    reason="Sizes and resolutions.",
    apply=lambda text: _SIZES(re.sub(r"(?<=[a-z'])\s[x\u00d7]\s(?=\d)", " by ", text)),
    examples=(
        ("1920x1080", "nineteen twenty by ten eighty"),
        ("a 4x6 photo", "a four by six photo"),
        ("2 x 3 x 4.5", "two by three by four point five"),
        ("10 cm x 15 cm", "10 cm by 15 cm"),
    ),
)

FEET = TransformRule(
    id="T2.feet",
    version=1,
    reason="Feet and inches.",
    apply=substitute(r"(?<![\w.])(?P<feet>\d)'\s?(?P<inches>1[01]|\d)(?:\"|(?!\w))", _feet),
    examples=(("He is 6'2\" tall", "He is six feet two tall"), ("5'11", "five feet eleven")),
)

LENS = TransformRule(
    id="T2.lens",
    version=1,
    reason="Apertures and focal lengths, which image prompts are full of.",
    apply=substitute(
        r"\b[fF]/(?P<stop>\d+(?:\.\d+)?)\b|"
        r"\b(?P<length>\d+)\s?mm(?=\s(?:lens|film|prime|macro|camera|photo))",
        lambda m: f"f {decimal(m['stop'])}" if m["stop"] else f"{cardinal(m['length'])} millimeter",
    ),
    examples=(
        ("shot at f/2.8", "shot at f two point eight"),
        ("an 85mm lens", "an eighty-five millimeter lens"),
    ),
)

FRACTION = TransformRule(
    id="T2.fraction",
    version=1,
    reason="Fractions.",
    apply=lambda text: _fractions(_unfold_fractions(text)),
    examples=(
        ("1/2 full", "one half full"),
        ("2 1/2 cups", "two and a half cups"),
        ("5\u00bd", "five and a half"),
        ("3/8", "three over eight"),
    ),
)

UNIT = TransformRule(
    id="T2.unit",
    version=1,
    reason="Numbers with a unit.",
    apply=substitute(
        rf"(?<![\w.])(?P<number>{NUMBER})(?P<hyphen>-|\s?)(?!in\s+\w)"
        rf"(?P<unit>{'|'.join(sorted(map(re.escape, _UNITS), key=len, reverse=True))})"
        r"(?P<power>[\u00b2\u00b3])?(?![\w/])",
        _measure,
    ),
    examples=(
        ("12 kg", "twelve kilograms"),
        ("1 kg", "one kilogram"),
        ("a 5-mile run", "a 5-mile run"),
        ("a 5-km run", "a five kilometer run"),
        ("5 km/h", "five kilometers per hour"),
        ("20\u00b0C", "twenty degrees Celsius"),
        ("45%", "forty-five percent"),
        ("120 m\u00b2", "one hundred twenty square meters"),
        ("3 in the box", "3 in the box"),
        ("1,500 lbs", "one thousand five hundred pounds"),
    ),
)
