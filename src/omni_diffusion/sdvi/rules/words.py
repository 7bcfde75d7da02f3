"""Rules for abbreviations and signs, and the last ones: letters, capitals, punctuation."""

from __future__ import annotations

import re
import unicodedata

from omni_diffusion.sdvi.rules.rule import TransformRule, shorten

_TITLES = {
    "Dr.": "Doctor",
    "Mr.": "Mister",
    "Mrs.": "Missus",
    "Ms.": "Miss",
    "Prof.": "Professor",
    "Gen.": "General",
    "Capt.": "Captain",
    "Lt.": "Lieutenant",
    "Sgt.": "Sergeant",
    "Mt.": "Mount",
    "Ft.": "Fort",
    "Rev.": "Reverend",
    "Fig.": "Figure",
}
_SHORT = {
    "e.g.": "for example",
    "i.e.": "that is",
    "etc.": "et cetera",
    "vs.": "versus",
    "approx.": "approximately",
    "incl.": "including",
    "Jr.": "Junior",
    "Sr.": "Senior",
    "Inc.": "Incorporated",
    "Ltd.": "Limited",
    "Co.": "Company",
    "Ave.": "Avenue",
    "Blvd.": "Boulevard",
    "Rd.": "Road",
    "Dept.": "Department",
}
_BARE = {"vs": "versus", "w/": "with ", "w/o": "without "}
_CLIPPED = re.compile(
    r"(?<![\w.])(" + "|".join(re.escape(s) for s in {**_TITLES, **_SHORT}) + r")(\s*)(?=(.?))"
)
_SIGNS = (
    (r"(?<=\w)/(?=\w)", " or "),
    (r"\s*&\s*", " and "),
    (r"\s*=\s*", " equals "),
    (r"(?<=\w)\s*\+\s*(?=\w)", " plus "),
    (r"(?<=\w)\+", " plus"),
    (r"[~\u2248]\s?(?=[\w$])", "about "),
    (r"<\s?(?=\w)|(?<=\w)\s?<", " less than "),
    (r">\s?(?=\w)|(?<=\w)\s?>", " more than "),
    (r"[\u00ae\u00a9\u2122]", ""),
    (r"#(?=\w)", ""),
    (r"\s*\u2013\s*", ", "),
    (r"\s+-+\s+|\s*-{2,}\s*", ", "),
    (r"\s*\.{2,}", "..."),
    (r"\.{3}(?=\s*\w)", ","),
    (r"\s*[(\[]\s*", ", "),
    (r"\s*[)\]](?=\s*\w)", ","),
    (r"[)\]\"*_|\\]", ""),
)
_LETTERS = str.maketrans(
    {"\u00df": "ss", "\u00e6": "ae", "\u00c6": "Ae", "\u0153": "oe", "\u0152": "Oe"}
    | {"\u00f8": "o", "\u00d8": "O", "\u0142": "l", "\u0141": "L", "\u0111": "d", "\u00f0": "d"}
    | {"\u00fe": "th", "\u00de": "Th"}
)
_QUESTION = re.compile(
    r"(?:what|which|who|whose|whom|where|when|why|how|is|are|was|were|do|does|did|can|could|will|"
    r"would|should|has|have|had|may)\b",
    re.IGNORECASE,
)


def _abbreviations(text: str) -> str:
    def word(match: re.Match[str]) -> str:
        short, space, following = match[1], match[2], match[3]
        if short in _TITLES:
            return f"{_TITLES[short]} " if following.isupper() else match[0]
        # The full stop of an abbreviation at the end of a sentence ends the sentence too.
        ends = not following or (short == "etc." and following.isupper())
        return _SHORT[short] + ("." if ends else "") + space

    text = _CLIPPED.sub(word, text)
    text = re.sub(r"(?<![\w.])St\.\s(?=[A-Z])(?<![a-z] St\. )", "Saint ", text)
    text = re.sub(r"(?<=[a-z] )St\.?(?![\w'])", r"Street", text)
    text = re.sub(r"\b[Nn]o\.\s?(?=\d)", "number ", text)
    for short, words in _BARE.items():
        text = re.sub(rf"(?<![\w/]){re.escape(short)}(?![\w/])\s?", f"{words.strip()} ", text)
    return text.strip()


def _signs(text: str) -> str:
    for pattern, words in _SIGNS:
        text = re.sub(pattern, words, text)
    return " ".join(text.split())


def _letters(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def _sentence(text: str) -> str:
    text = re.sub(r"(?<!\w)'|'(?!\w)", "", text)
    text = re.sub(r"\s+([,.;:?!])", r"\1", " ".join(text.split()))
    text = re.sub(r"[,;:]+(?=[,;:.?!])", "", text)
    text = re.sub(r"([.?!])[.?!,]*\.|([?!])[?!]+", r"\1\2", text)
    text = re.sub(r"^[\s,.;:?!-]+|[\s,;:-]+$", "", text)
    if not text:
        return ""
    last = re.split(r"(?<=[.?!])\s+", text)[-1]
    if text[-1] not in ".?!":
        text += "?" if _QUESTION.match(last) else "."
    return text[0].upper() + text[1:]


def unspeakable(text: str) -> str | None:
    """The first run of characters outside of what `speakable` may return, or None."""
    match = re.search(r"[^A-Za-z ',.?!;:-]+", text)
    return shorten(match[0], 20) if match else None


ABBREVIATION = TransformRule(
    id="T3.abbreviation",
    version=1,
    reason="Abbreviations in full.",
    apply=_abbreviations,
    examples=(
        ("Dr. Smith vs. Mr. Jones", "Doctor Smith versus Mister Jones"),
        ("fruit, e.g. apples, etc.", "fruit, for example apples, et cetera."),
        ("St. Peter on Baker St. today", "Saint Peter on Baker Street today"),
        ("No. 5", "number 5"),
        ("tea w/ milk", "tea with milk"),
        ("No. It is not.", "No. It is not."),
    ),
)

SIGN = TransformRule(
    id="T3.sign",
    version=1,
    reason="Signs as words, brackets and dashes as pauses.",
    apply=_signs,
    examples=(
        ("black & white", "black and white"),
        ("he/she", "he or she"),
        ("a cat (red) sits", "a cat, red, sits"),
        ("old\u2013fashioned", "old, fashioned"),
        ('He said "stop"', "He said stop"),
        ("well... yes", "well, yes"),
    ),
)

LETTER = TransformRule(
    id="T3.letter",
    version=1,
    reason="Accents fall: English voices read the plain letters.",
    apply=_letters,
    examples=(("caf\u00e9 in Malm\u00f6", "cafe in Malmo"), ("Stra\u00dfe", "Strasse")),
)

SENTENCE = TransformRule(
    id="T4.sentence",
    version=1,
    reason="A capital at the start, one full stop or question mark at the end.",
    apply=_sentence,
    examples=(
        ("what is this", "What is this?"),
        ("a red apple", "A red apple."),
        ("Stop!!", "Stop!"),
        ("so , yes", "So, yes."),
        ("'tis the dog's bone", "Tis the dog's bone."),
    ),
)

WORDS = (SIGN, LETTER, SENTENCE)
