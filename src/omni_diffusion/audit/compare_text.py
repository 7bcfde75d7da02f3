"""A comparison as tables for a person, or as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from omni_diffusion.audit.answer import printable, save_text
from omni_diffusion.audit.compare import Comparison
from omni_diffusion.audit.guard import QueryError

CODES_OF_SAMPLES = 20_000
"""Samples of each corpus whose codes are counted, unless another number is asked for."""

_PAPER = 10_000


def write(found: Comparison, form: str, out: str) -> None:
    """Print a comparison, or write it to a file or URL.

    Raises:
        QueryError: a form that holds one table only.
    """
    if form not in ("table", "json"):
        raise QueryError(f"a comparison is several tables: --format table or json, not {form}")
    if out:
        with save_text(out) as file:
            _write(found, form, file)
    else:
        _write(found, form, sys.stdout)


def _write(found: Comparison, form: str, file: IO[str]) -> None:
    if form == "json":
        json.dump(asdict(found), file, indent=2, ensure_ascii=False)
        file.write("\n")
        return
    console = Console(file=file, width=None if file.isatty() else _PAPER)
    console.print(*_tables(found), sep="\n")
    drifting = [drift.name for drift in found.drifts if drift.drifts]
    verdict = ", ".join(drifting) if drifting else "nothing"
    file.write(f"more than chance explains: {verdict}\n")


def _tables(found: Comparison) -> list[Table]:
    corpora = Table("", "mine", "theirs", title="corpora", title_justify="left")
    for row in found.corpora:
        corpora.add_row(*(Text(printable(cell)) for cell in row))
    names = ("added", "removed", "changed", "relabelled", "same", "renamed")
    firsts = ("first_added", "first_removed", "first_changed")
    changes = Table("source", title="samples, from theirs to mine", title_justify="left")
    for name in names:
        changes.add_column(name, justify="right")
    for name in firsts:
        changes.add_column(name.replace("_", " "))
    for change in found.changes:
        cells = [change.source or "(none)", *(str(getattr(change, name)) for name in names)]
        cells += [getattr(change, name) or "" for name in firsts]
        changes.add_row(*(Text(printable(cell)) for cell in cells))
    drifts = Table("distribution", title="drift, largest first", title_justify="left")
    for name in ("distance", "by chance", "mine", "theirs"):
        drifts.add_column(name, justify="right")
    drifts.add_column("")
    drifts.add_column("what moved most, theirs -> mine")
    for drift in found.drifts:
        distances = (f"{drift.distance:.4f}", f"{drift.chance:.4f}")
        verdict = "drifts" if drift.drifts else ""
        cells = [drift.name, *distances, str(drift.mine), str(drift.theirs), verdict, drift.most]
        drifts.add_row(*(Text(printable(cell)) for cell in cells))
    return [corpora, changes, drifts]
