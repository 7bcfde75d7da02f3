"""The page as a whole.

with Audit("corpora/demo") as audit:
    page, summary = make_report(audit, ReportSettings(samples=60), tokenizers, on_step)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from omni_diffusion import __version__
from omni_diffusion.audit.audit import Audit
from omni_diffusion.audit.report import overview
from omni_diffusion.audit.report.answers import Answer, Section, applies, ask, sections
from omni_diffusion.audit.report.encoding import Budget
from omni_diffusion.audit.report.exhibit import Decoder, Exhibit, read_sample
from omni_diffusion.audit.report.gallery import Group, Place, candidates, in_turns, quotas
from omni_diffusion.audit.report.text import cell, heading, visible
from omni_diffusion.corpus.media_record import is_media
from omni_diffusion.errors import OmniError
from omni_diffusion.tokenize.media import MediaTokenizers

Step = Callable[[int, int], None]
Tokenizers = Callable[[Mapping[str, str]], MediaTokenizers]
"""Given fingerprints, the tokenizers that made them."""

_REST_BYTES = 1_500_000
"""Of the page without media."""

_PLAYERS = 40
"""Browsers of phones refuse more sounds that load themselves."""

_STRIP = 8


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What a report shall hold.

    Attributes:
        title: names the corpus.
        samples: in the gallery.
        seed: another one shows others.
        max_bytes: of the file: sounds are cut and pictures left out before it gets larger.
        has_run: whether `planned` and the like can be asked.
    """

    title: str
    samples: int = 60
    seed: int = 0
    max_bytes: int = 15_000_000
    has_run: bool = False


@dataclass(kw_only=True)
class Gallery:
    """Samples that are shown, and why others are not.

    Attributes:
        total: samples of the corpus.
        media: whether they are files, not codes.
        faults: of samples that could not be read.
    """

    total: int
    media: bool
    exhibits: list[Exhibit] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def tasks(self) -> list[str]:
        """Tasks that occur, in the order of the samples."""
        return list(dict.fromkeys(exhibit.place.task for exhibit in self.exhibits))

    @property
    def strip(self) -> list[Exhibit]:
        """A few samples with pictures, from all over the gallery."""
        pictured = [exhibit for exhibit in self.exhibits if exhibit.picture]
        step = max(1, len(pictured) // _STRIP)
        return pictured[::step][:_STRIP]

    @property
    def sounds(self) -> int:
        """How many sounds there are."""
        turns = (turn for exhibit in self.exhibits for turn in exhibit.turns)
        return sum(part.kind == "sound" for turn in turns for part in turn.parts)


@dataclass(frozen=True, kw_only=True)
class Report:
    """A page, and what is in it.

    Attributes:
        html: the page.
        samples, pictures, sounds: how many are shown.
        unread: samples that were chosen and could not be read.
        problems: shards that are not whole.
        faults: named queries that could not be answered.
    """

    html: str
    samples: int
    pictures: int
    sounds: int
    unread: int
    problems: list[str]
    faults: list[str]


def make_report(
    audit: Audit, settings: ReportSettings, tokenizers: Tokenizers, on_step: Step | None = None
) -> Report:
    """Ask all questions, decode the gallery, render the page.

    The page is a pure function of the corpus, the settings and the tokenizers: there is no clock
    in it.

    Args:
        audit: the corpus; perhaps with a second one to compare with.
        settings: what the page shall hold.
        tokenizers: finds what decodes the corpus's codes.
        on_step: called with (steps done, steps in all).

    Raises:
        CorpusError: there is no index that can be read.
    """
    manifest = audit.corpus.manifest
    holds_media = manifest is not None and manifest.is_media
    asked = [
        (section, question)
        for section in sections()
        for question in section.questions
        if not (section.of_tokens and holds_media)
        and applies(question, compares=audit.compares, has_run=settings.has_run)
    ]
    steps = _Steps(on_step, 1 + len(asked) + settings.samples)
    head = overview.overview(audit)
    steps.done()
    answers: dict[str, list[Answer]] = {}
    for section, question in asked:
        answers.setdefault(section.anchor, []).append(ask(audit, question, head.longest))
        steps.done()
    gallery = _gallery(audit, settings, tokenizers, steps)
    html = _template().render(
        settings=settings,
        version=__version__,
        head=head,
        sections=[_Filled(s, answers[s.anchor]) for s in sections() if s.anchor in answers],
        gallery=gallery,
        preload="metadata" if gallery.sounds <= _PLAYERS else "none",
        reasons=overview.reasons(audit),
        makers=overview.makers(audit),
        runs=overview.runs(audit),
        notes=list(dict.fromkeys(audit.notes)),
    )
    parts = [p for e in gallery.exhibits for turn in e.turns for p in turn.parts]
    return Report(
        html=html,
        samples=len(gallery.exhibits),
        pictures=sum(part.kind == "picture" for part in parts),
        sounds=gallery.sounds,
        unread=len(gallery.faults),
        problems=head.problems,
        faults=[f"{a.title}: {a.fault}" for found in answers.values() for a in found if a.fault],
    )


@dataclass(frozen=True)
class _Filled:
    """A section with its answers."""

    section: Section
    answers: list[Answer]

    @property
    def heard(self) -> list[Answer]:
        """Those that say something."""
        return [answer for answer in self.answers if answer.rows or answer.fault]

    @property
    def is_empty(self) -> bool:
        return not self.heard

    @property
    def is_single(self) -> bool:
        """Whether there is nothing to stand beside."""
        return len(self.heard) == 1


class _Steps:
    """Counts steps for a progress bar."""

    def __init__(self, on_step: Step | None, total: int) -> None:
        self._on_step, self._total, self._done = on_step, total, 0

    def left(self, n: int) -> None:
        """So many are to come."""
        self._total = self._done + n

    def done(self) -> None:
        """One more."""
        self._done += 1
        if self._on_step:
            self._on_step(self._done, self._total)


def _gallery(
    audit: Audit, settings: ReportSettings, tokenizers: Tokenizers, steps: _Steps
) -> Gallery:
    groups = candidates(audit, settings.samples, settings.seed)
    sql = "SELECT coalesce(task, '') AS t, coalesce(source, '') AS s, count(*) AS n FROM samples "
    counts = audit.rows(sql + "GROUP BY ALL")
    wanted = quotas({group: len(places) for group, places in groups.items()}, settings.samples)
    made_by = overview.fingerprints(audit)
    manifest = audit.corpus.manifest
    common = manifest.fingerprints if manifest else next(iter(made_by.values()), {})
    gallery = Gallery(total=sum(row["n"] for row in counts), media=is_media(common))
    steps.left(sum(wanted.values()))
    room = max(0, settings.max_bytes - _REST_BYTES)
    decoder = Decoder(tokenizers(common), Budget(room, sum(wanted.values())))
    shown: dict[Group, list[Exhibit]] = {}
    for group, places in groups.items():
        shown[group] = []
        for place in places:
            if len(shown[group]) == wanted[group]:
                break
            if exhibit := _exhibit(audit, place, decoder, made_by, gallery.faults):
                shown[group].append(exhibit)
                steps.done()
    gallery.exhibits = list(in_turns({g: e for g, e in shown.items() if e}))
    return gallery


def _exhibit(
    audit: Audit,
    place: Place,
    decoder: Decoder,
    made_by: Mapping[int, Mapping[str, str]],
    faults: list[str],
) -> Exhibit | None:
    """What is shown of a sample; None, and a fault more, where its bytes are not there."""
    try:
        fingerprints = made_by.get(place.shard, {})
        sample = read_sample(audit.corpus.shards, place, fingerprints)
        return decoder.exhibit(place, sample, fingerprints)
    except OmniError as error:
        faults.append(str(error))
        return None


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("omni_diffusion.audit.report", "."),
        autoescape=True,
        finalize=_visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"width": _width, "cell": cell, "heading": heading}
    return environment.get_template("page.html")


def _visible(value: Any) -> Any:
    """What every value in the template goes through before it is escaped."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _width(share: Any) -> str:
    """A part of one as a CSS length."""
    return f"{min(1.0, max(0.0, float(share))) * 100:.2f}%"
