"""The views that SQL can ask, column by column.

A view is a name, a sentence, and its columns with what they mean. Where a view's data comes from
is the business of `audit`. This table is what `--columns` prints and what the documentation shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from omni_diffusion.corpus import rejects, sidecar

TURN_IDS = 5
"""Ids that the chat layout adds to a turn: three before its content and two behind."""

SEQUENCE_LEN = f"""(text_len + image256_len + image512_len + speech_len + features_len
 + {TURN_IDS} * n_spans + 2 * (image256_len // 256 + image512_len // 1024)
 + CASE WHEN speech_len + features_len > 0 THEN
     (n_spans - image256_len // 256 - image512_len // 1024)
     * (CASE WHEN features_len > 0 THEN 6 ELSE 2 END)
     - CASE WHEN features_len > 0 AND speech_len > 0 THEN 4 ELSE 0 END
   ELSE 0 END)::INTEGER"""
"""Ids of the training sequence at most, from index columns: the bound that the planner uses."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Something to SELECT from.

    Attributes:
        about: what one row is.
        columns: name to (type in SQL, meaning).
        reads_tars: whether it needs a pass over the shards themselves.
    """

    about: str
    columns: Mapping[str, tuple[str, str]]
    reads_tars: bool = False


_SAMPLE_COLUMNS = {
    "key": ("VARCHAR", "unique in the corpus"),
    "shard": ("INTEGER", "number of the tar"),
    "offset": ("BIGINT", "of the payload in the tar, bytes"),
    "size": ("INTEGER", "of the payload, bytes"),
    "crc": ("UINTEGER", "CRC-32 that the payload carries"),
    "content_hash": ("UBIGINT", "XXH3-64 of the tokens: equal tokens, equal hash"),
    "text_len": ("INTEGER", "text ids"),
    "image256_len": ("INTEGER", "codes of pictures at 256 pixels"),
    "image512_len": ("INTEGER", "codes of pictures at 512 pixels"),
    "speech_len": ("INTEGER", "speech codes, 12.5 a second"),
    "features_len": ("INTEGER", "frames of continuous speech"),
    "n_spans": ("INTEGER", "pieces of text, picture and sound"),
    "supervised_len": ("INTEGER", "tokens of the assistant's turns"),
    "task": ("VARCHAR", "`asr`, `tts`, `t2i`, ...; NULL where the record names none"),
    "source": ("VARCHAR", "data set that it came from"),
    "language": ("VARCHAR", ""),
    "license": ("VARCHAR", ""),
    "origin": ("VARCHAR", "path, URL or name in its source"),
    "voice": ("VARCHAR", "who speaks in synthetic speech"),
    "tts_engine": ("VARCHAR", "what speaks"),
    "duration_s": ("FLOAT", "measured: length of its sound, seconds"),
    "wer": ("FLOAT", "measured: word error rate of its speech when it is recognised again"),
    "cer": ("FLOAT", "measured: the same in characters"),
    "words_per_s": ("FLOAT", "measured: speaking rate"),
    "peak": ("FLOAT", "measured: largest amplitude, 1 is full scale"),
    "rms_dbfs": ("FLOAT", "measured: loudness, decibels below full scale"),
    "silence_s": ("FLOAT", "measured: silence in its sound, seconds"),
    "clip_score": ("FLOAT", "measured: agreement of picture and text"),
    "end_silence_s": ("FLOAT", "measured: longer silence at an end of its sound, seconds"),
    "clipped_share": ("FLOAT", "measured: share of samples at full scale"),
    "end_db": ("FLOAT", "measured: level of the last 20 ms against the speech, decibels"),
    "noise_db": ("FLOAT", "measured: level of the quietest tenth against the speech, decibels"),
    "voice_rate": ("FLOAT", "how fast the voice was asked to speak, 1 is its own rate"),
    "attempts": ("FLOAT", "how often an utterance was spoken before it passed"),
}
assert tuple(_SAMPLE_COLUMNS) == tuple(sidecar.SCHEMA.names)

VIEWS: Mapping[str, View] = {
    "samples": View(
        about="a sample",
        columns={
            **_SAMPLE_COLUMNS,
            "tokens": ("INTEGER", "sum of the five lengths"),
            "sequence_len": ("INTEGER", "ids of the training sequence, at most; no tail pads"),
        },
    ),
    "messages": View(
        about="a turn of a conversation",
        columns={
            "key": ("VARCHAR", "its sample"),
            "shard": ("INTEGER", ""),
            "message": ("INTEGER", "0, 1, 2, ..."),
            "role": ("VARCHAR", "as the record says it"),
            "content": ("VARCHAR", "text with placeholders"),
            "images": ("INTEGER", "placeholders of pictures in it"),
            "audios": ("INTEGER", "placeholders of sounds in it"),
        },
        reads_tars=True,
    ),
    "media": View(
        about="a picture or a sound",
        columns={
            "key": ("VARCHAR", "its sample"),
            "shard": ("INTEGER", ""),
            "span": ("INTEGER", "row of the sample's span table"),
            "message": ("INTEGER", "turn that it stands in"),
            "role": ("VARCHAR", "`system`, `user` or `assistant`"),
            "kind": ("VARCHAR", "`image` or `audio`"),
            "stream": ("VARCHAR", "`image256`, `image512`, `speech` or `features`"),
            "start": ("BIGINT", "first row of that stream"),
            "length": ("BIGINT", "codes or frames"),
            "height": ("BIGINT", "pictures: rows of the code grid; else NULL"),
            "width": ("BIGINT", "pictures: columns of the code grid; else NULL"),
            "name": ("VARCHAR", "file that the record names for it"),
        },
        reads_tars=True,
    ),
    "codes": View(
        about="a code of a code book that occurs",
        columns={
            "stream": ("VARCHAR", "`image256`, `image512` or `speech`"),
            "code": ("INTEGER", "native code, from 0"),
            "count": ("BIGINT", "how often it occurs"),
            "shards": ("INTEGER", "in how many shards it occurs"),
        },
        reads_tars=True,
    ),
    "rejects": View(
        about="a record that could not be used",
        columns={
            **dict.fromkeys(rejects.SCHEMA.names, ("VARCHAR", "")),
            "key": ("VARCHAR", "its key, or its place in the source"),
            "stage": ("VARCHAR", "which step refused it"),
            "reason": ("VARCHAR", "short, to be counted"),
            "detail": ("VARCHAR", "the whole message"),
            "shard": ("INTEGER", "partition that it belongs to"),
        },
    ),
    "shards": View(
        about="a shard that the index, a sidecar or a tar speaks of",
        columns={
            "shard": ("INTEGER", "number"),
            "tar_bytes": ("BIGINT", "size of the tar; NULL where it is missing"),
            "sidecar_bytes": ("BIGINT", "size of the sidecar; NULL where it is missing"),
            "declared_bytes": ("BIGINT", "size of the tar that the sidecar declares"),
            "declared_rows": ("BIGINT", "samples that the sidecar declares"),
            "declared_rejects": ("BIGINT", "rejects that the sidecar declares"),
            "digest": ("VARCHAR", "SHA-256 of the tar that the sidecar declares"),
            "fingerprints": ("VARCHAR", "JSON: what made the tokens"),
            "fault": ("VARCHAR", "why the sidecar cannot be read; else NULL"),
            "subset": ("BOOLEAN", "whether the corpus holds only some of the shard's samples"),
        },
    ),
    "runs": View(
        about="a run of a job that wrote into this corpus",
        columns={
            "run": ("VARCHAR", "sorts by time"),
            "job": ("VARCHAR", "verb of the command line"),
            "state": ("VARCHAR", "`running`, `finished`, `failed`, ..."),
            "started": ("TIMESTAMP", "UTC"),
            "updated": ("TIMESTAMP", "UTC"),
            "host": ("VARCHAR", ""),
            "recipe_digest": ("VARCHAR", ""),
            "partitions_total": ("BIGINT", ""),
            "partitions_done": ("BIGINT", "by this run and earlier ones"),
            "partitions_failed": ("BIGINT", "given up"),
            "rows": ("BIGINT", "of this run alone"),
            "rejects": ("BIGINT", "of this run alone"),
            "json": ("VARCHAR", "the whole file"),
        },
    ),
    "batches": View(
        about="a sample of a training step (with --run; else none)",
        columns={
            "step": ("INTEGER", "optimizer step, from 0"),
            "row": ("INTEGER", "row of the step that it lies in"),
            "rows": ("INTEGER", "rows of the step"),
            "row_length": ("INTEGER", "positions of a row"),
            "part": ("VARCHAR", "name of its corpus in the recipe"),
            "corpus": ("VARCHAR", "folder or URL of its corpus"),
            "key": ("VARCHAR", "the sample"),
            "task": ("VARCHAR", "`other` where the record names none"),
            "epoch": ("INTEGER", "pass over its corpus, from 0"),
            "length": ("INTEGER", "ids that are set aside for it, tail pads not counted"),
            "tail_pads": ("INTEGER", "end-of-text ids behind it"),
            "supervised_len": ("INTEGER", "tokens of the assistant's turns"),
            "time": ("DOUBLE", "its place in the mask schedule, 0 to 1"),
        },
    ),
    "weights": View(
        about="a part of the mixture that `--weights`, or the recipe of `--run`, configures",
        columns={
            "name": ("VARCHAR", "of a task, source or language; with --run of a corpus"),
            "share": ("DOUBLE", "its weight divided by all weights"),
        },
    ),
}


def empty(name: str) -> str:
    """SQL of a view without rows, for what a corpus does not have."""
    columns = (f'NULL::{kind} AS "{column}"' for column, (kind, _) in VIEWS[name].columns.items())
    return f"SELECT {', '.join(columns)} WHERE false"
