"""`omni-diffusion show`: one sample, as a person reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from omni_diffusion.cli import media_options

if TYPE_CHECKING:
    from omni_diffusion.corpus.record import Record
    from omni_diffusion.corpus.sample import Sample
    from omni_diffusion.tokenize.media import MediaTokenizers


def command(
    corpus: str = typer.Argument(help="Folder or URL of a corpus."),
    key: str = typer.Argument(help="Key of the sample."),
    out: Path | None = typer.Option(
        None, "-o", "--out", help="Also write its pictures, sounds and texts into this folder."
    ),
    image: str = media_options.IMAGE,
    speech: str = media_options.SPEECH,
    decoder: str = media_options.DECODER,
    device: str = media_options.DEVICE,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Print record, spans and lengths of one sample; its bytes are checked on the way.

    With -o, what its codes stand for is written as files. A corpus that was made with the demo
    tokenizers is decoded with them; for any other, name the ones that made it. The pictures and
    sounds of a media corpus are written as they are.
    """
    from omni_diffusion.corpus.corpus import Corpus
    from omni_diffusion.corpus.manifest import read_manifest
    from omni_diffusion.corpus.storage import Storage

    if read_manifest(Storage(corpus)).is_media:
        _show_media(corpus, key, out, as_json)
        return
    opened = Corpus(corpus)
    sample = opened.get(key)
    if out:
        fingerprints = opened.manifest.fingerprints
        tokenizers = media_options.of_corpus(fingerprints, image, speech, decoder, device)
        _write_media(sample, fingerprints, tokenizers, out)
    if as_json:
        typer.echo(json.dumps(_describe(sample), indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    Console().print(_spans_table(sample))
    typer.echo(_record_text(sample))


def _show_media(corpus: str, key: str, out: Path | None, as_json: bool) -> None:
    """A record of a media corpus: what it says and, with -o, its files."""
    from omni_diffusion.corpus.media_corpus import MediaCorpus
    from omni_diffusion.corpus.media_record import member_names

    entry = MediaCorpus(corpus).get(key)
    contents = (*entry.images, *entry.audios)
    sizes = dict(zip(member_names(entry), map(len, contents), strict=True))
    if out:
        _write_texts(entry.record, out)
        for name, data in zip(sizes, contents, strict=True):
            path = out / name.removeprefix(f"{key}.")
            path.write_bytes(data)
            typer.echo(path, err=True)
    if as_json:
        plain = {"key": key, "record": entry.record.to_dict(), "members": sizes}
        typer.echo(json.dumps(plain, indent=2, ensure_ascii=False))
        return
    members = ", ".join(f"{name} ({size} bytes)" for name, size in sizes.items())
    typer.echo("\n".join([*_record_lines(entry.record), f"  members : {members}"]))


def _write_texts(record: Record, out: Path) -> None:
    """The record, and each message as a text; names begin with their order."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "record.json").write_bytes(record.to_json())
    for i, message in enumerate(record.messages):
        (out / f"message{i}-{message.role}.txt").write_text(message.content, "utf-8")


def _write_media(
    sample: Sample, fingerprints: Mapping[str, str], tokenizers: MediaTokenizers, out: Path
) -> None:
    """One file a picture, sound and message, and the record."""
    from omni_diffusion.tokenize.codes import span_codes

    _write_texts(sample.record, out)
    for i, span in enumerate(_spans(sample)):
        if (codes := span_codes(sample, i, fingerprints)) is not None:
            stem = out / f"span{i}-{span['role']}-{span['stream']}"
            typer.echo(tokenizers.decode_to_file(codes, stem), err=True)


def _describe(sample: Sample) -> dict[str, Any]:
    return {
        "key": sample.key,
        "record": sample.record.to_dict(),
        "lengths": {name: len(stream) for name, stream in sample.streams.items()},
        "supervised_len": sample.supervised_length,
        "spans": _spans(sample),
    }


def _spans(sample: Sample) -> list[dict[str, Any]]:
    from omni_diffusion.corpus.record import ROLES
    from omni_diffusion.corpus.sample import STREAMS

    return [
        {
            "message": int(span["message"]),
            "role": ROLES[span["role"]],
            "stream": STREAMS[span["stream"]].name,
            "start": int(span["start"]),
            "length": int(span["length"]),
            "height": int(span["height"]),
        }
        for span in sample.spans
    ]


def _spans_table(sample: Sample) -> Any:
    from rich.table import Table

    columns = ("message", "role", "stream", "start", "length", "grid", "first ids")
    table = Table(*columns, title=f"{sample.key}: spans", title_justify="left")
    for span in _spans(sample):
        ids = sample.streams[span["stream"]][span["start"] :][: min(span["length"], 6)]
        more = " …" if span["length"] > 6 else ""
        grid = f"{span['height']}×{span['length'] // span['height']}" if span["height"] else ""
        first = "" if ids.ndim > 1 else " ".join(map(str, ids.tolist())) + more
        cells = [span[name] for name in columns[:5]]
        table.add_row(*map(str, cells), grid, first)
    return table


def _record_text(sample: Sample) -> str:
    lengths = ", ".join(f"{name} {len(stream)}" for name, stream in sample.streams.items())
    last = f"  lengths : {lengths}; supervised {sample.supervised_length}"
    return "\n".join([*_record_lines(sample.record), last])


def _record_lines(record: Record) -> list[str]:
    """What a record says; how its lines were spoken, one line each."""
    value = record.to_dict()
    lines = [f"{message['role']:>9} | {message['content']}" for message in value.pop("messages")]
    extra = dict(value.pop("extra", {}))
    spoken = extra.pop("sdvi", {}).get("utterances", [])
    if extra:
        value["extra"] = extra
    lines += [f"{name:>9} : {text}" for name, text in value.items()]
    for u in spoken:
        about = f"{u['role']}, {u['voice']} at {u['rate']:g}, try {u['attempt'] + 1}"
        heard = f", heard {u['heard']!r}" if "heard" in u else ""
        lines.append(f"   spoken : {u['text_spoken']!r} ({about}{heard})")
    return [_printable(line) for line in lines]


def _printable(text: str) -> str:
    """Control characters spelled out: a caption must not command the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
