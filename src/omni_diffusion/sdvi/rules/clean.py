"""Rules that clean: characters, prompt boiler-plate, Markdown and emoji. What they leave is the
text as it would be written for a reader (`text_written`).
"""

from __future__ import annotations

import re
import unicodedata

import ftfy

from omni_diffusion.sdvi.rules.rule import TransformRule

_PLAIN = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4\u02bc", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2010\u2011\u2012", "-"),
        **dict.fromkeys("\u2013\u2014\u2015\u2212", "\u2013"),
        **dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2009\u200a\u202f\u3000\t", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\ufe0e\ufe0f\u00ad", None),
        **dict.fromkeys("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069", None),
        "\u2026": "...",
        "\u2022": "-",
        "\u0131": "i",
    }
)
_AS_THEY_ARE = "\u00b2\u00b3\u00bd\u00bc\u00be\u2013\u00ba\u00b0"
"""NFKC would turn a square into a two, and a half into a slash."""


def _unicode(text: str) -> str:
    text = ftfy.fix_text(text, normalization="NFC").translate(_PLAIN)
    text = "".join(
        c if c in _AS_THEY_ARE or c.isascii() else unicodedata.normalize("NFKC", c) for c in text
    )
    # Long runs of white space would make the patterns of later rules slow.
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


_PLACEHOLDER = re.compile(r"\s*<\|?(?:image|audio|video)(?:_?\d+)?\|?>\s*")
_REQUESTS = re.compile(
    r"""\s*(?:
        (?:please\s+)?answer\s+(?:the\s+question\s+)?(?:using|with|in)\s+(?:a|one)\s+
            (?:single\s+)?(?:word|letter|phrase|number)(?:\s+(?:or|and)\s+(?:short\s+)?phrase)?
      | (?:please\s+)?answer\s+with\s+the\s+(?:option'?s?\s+)?letter
            (?:\s+from\s+the\s+given\s+choices)?(?:\s+directly)?
      | (?:please\s+)?(?:select|choose)\s+the\s+correct\s+(?:answer|option)
            (?:\s+from\s+the\s+(?:given\s+)?(?:options|choices)(?:\s+below)?)?
      | (?:please\s+)?(?:give|provide)\s+(?:a|the)\s+(?:very\s+)?(?:brief|short)\s+answer
      | hint:\s*please\s+answer\s+[^\n]*
      | (?:please\s+)?answer\s+(?:yes\s+or\s+no|briefly|concisely|the\s+question)
    )(?:\s*[.:]|(?=\s*$)|(?=\s*\n))\s*""",
    re.IGNORECASE | re.VERBOSE,
)
_LABEL = re.compile(
    r"^\s*(?:question|q|answer|caption|context)\s*:\s*", re.IGNORECASE | re.MULTILINE
)


def _prompt(text: str) -> str:
    text = _PLACEHOLDER.sub("\n", text)
    return _LABEL.sub("", _REQUESTS.sub("\n", text)).strip()


def _markdown(text: str) -> str:
    text = re.sub(r"(?<!!)\[([^\]\n]+)\]\([^)\s]*\)", r"\1", text)
    text = re.sub(
        r"^\s{0,3}(?:#{1,6}\s+|>\s?|[-*+]\s+|\d{1,2}[.)]\s+)", "", text, flags=re.MULTILINE
    )
    text = re.sub(r"^\s*(?:[-*_=]\s*){3,}$", "", text, flags=re.MULTILINE)
    text = re.sub(r"(\*\*|__|~~)(?=\S)(.+?)(?<=\S)\1", r"\2", text)
    text = re.sub(r"(?<![\w*])([*_])(?=\S)([^*_\n]+?)(?<=\S)\1(?![\w*])", r"\2", text)
    return text.replace("`", "").strip()


def _emoji(text: str) -> str:
    kept = "".join(" " if _is_symbol(c) else c for c in text)
    return re.sub(r"[ ]{2,}", " ", kept).strip() if kept != text else text


def _is_symbol(character: str) -> bool:
    """Pictures and their modifiers; the degree sign and the like are `So` too but can be said."""
    if character in "\u00b0\u00ae\u00a9\u2122":
        return False
    code = ord(character)
    return unicodedata.category(character) == "So" or 0x1F3FB <= code <= 0x1F3FF or code == 0x20E3


def _lines(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines()]
    lines = [line for line in lines if line]
    ended = [line if line[-1] in ".?!,:;" else line + "." for line in lines[:-1]]
    return " ".join(ended + lines[-1:])


UNICODE = TransformRule(
    id="T1.unicode",
    version=1,
    reason="Broken encodings repaired; quotes, dashes and spaces in their plain form.",
    apply=_unicode,
    examples=(
        ("It\u2019s \u201cred\u201d", 'It\'s "red"'),
        ("sch\u00c3\u00b6n", "sch\u00f6n"),
        ("\uff21\uff22 \ufb01sh", "AB fish"),
        ("a\u200bb \u202eright\u202c", "ab right"),
        ("  a \n\n\n b", "a\nb"),
        ("12 m\u00b2, 5\u00bd", "12 m\u00b2, 5\u00bd"),
    ),
)

PROMPT = TransformRule(
    id="R8.prompt",
    version=1,
    reason="Image tags and orders about the form of the answer are for a model, not for a person.",
    apply=_prompt,
    examples=(
        ("<image>\nWhat is this?", "What is this?"),
        ("What is this?\nAnswer the question using a single word or phrase.", "What is this?"),
        ("Is it red? Please answer with one word.", "Is it red?"),
        ("Answer with the option's letter from the given choices directly.", ""),
        ("Question: Who won?", "Who won?"),
        (
            "Hint: Please answer the question and provide the correct option letter.\nWho won?",
            "Who won?",
        ),
        ("Is there a single word on the sign?", "Is there a single word on the sign?"),
    ),
)

FLAGS = TransformRule(
    id="R8.flags",
    version=1,
    reason="Settings of image generators at the end of a prompt are not part of the description.",
    apply=lambda text: re.sub(
        r"\s*(?:::\s?-?[\d.]*|\|)\s*(?!$)",
        ", ",
        re.sub(r"\s*--[a-z]+(?:[ =][\d.:]+)?(?!\S)", "", text),
    ),
    examples=(
        ("a castle --ar 16:9 --v 5", "a castle"),
        ("a cat::2 a dog | cartoon", "a cat, a dog, cartoon"),
        ("well -- yes", "well -- yes"),
    ),
)

MARKDOWN = TransformRule(
    id="T1.markdown",
    version=1,
    reason="Emphasis, headings, bullets and links lose their marks and keep their words.",
    apply=_markdown,
    examples=(
        ("**Bold** and *soft* and __more__", "Bold and soft and more"),
        ("# Title\n- one\n- two", "Title\none\ntwo"),
        ("1. First\n2. Second", "First\nSecond"),
        ("the [cat](http://a.b/c)", "the cat"),
        ("snake_case and 2 * 3", "snake_case and 2 * 3"),
    ),
)

EMOJI = TransformRule(
    id="T1.emoji",
    version=1,
    reason="Pictures among the letters are removed.",
    apply=_emoji,
    examples=(
        ("Nice \U0001f600 cat", "Nice cat"),
        ("\U0001f408\U0001f408", ""),
        ("20\u00b0 warm", "20\u00b0 warm"),
    ),
)

LINES = TransformRule(
    id="T1.lines",
    version=1,
    reason="Lines become sentences of one paragraph.",
    apply=_lines,
    examples=(("one\ntwo", "one. two"), ("First:\n\n a  b \n", "First: a b"), ("Same.", "Same.")),
)

BEFORE_SELECTION = (UNICODE, PROMPT)
MARKUP = (FLAGS, MARKDOWN, EMOJI, LINES)
