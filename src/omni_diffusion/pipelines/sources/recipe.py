"""The part of a recipe that says where records come from: one class a kind of source."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from omni_diffusion.pipelines.sources.cleanup import Step
from omni_diffusion.pipelines.sources.forms import FORMS, Task
from omni_diffusion.recipe import Recipe

Paths: TypeAlias = str | tuple[str, ...]
"""Files, folders, globs or URLs of them."""

CAPTION_PROMPTS = (
    "Describe the image.",
    "What does this picture show?",
    "Write a caption for this image.",
    "Describe the content of this picture.",
)


class Columns(Recipe):
    """Which column holds what. `a.b` is field `b` of a column `a` that holds objects.

    Attributes:
        id: the data set's own name for the row, kept as the record's origin; may be null.
        text: a transcript (asr, tts) or caption (t2i, caption).
        question: in words (vqa, text).
        answer: in words (vqa, sqa, svqa, text).
        image: bytes, `{bytes, path}`, a path below `media_root`, or a list of these.
        audio: the same; the user's speech, or the only speech there is.
        answer_audio: the same; the assistant's speech.
        conversations: a list of `{from, value}` or `{role, content}` instead of single columns.
        language: of the row, where it varies; null where it is the recipe's.
        provenance: name in the record to column, e.g. `{speaker: speaker_id}`; may be null.
        quality: name in the record to column with numbers, e.g. `{dnsmos: dnsmos}`; may be null.
    """

    id: str | None = None
    text: str | None = None
    question: str | None = None
    answer: str | None = None
    image: str | None = None
    audio: str | None = None
    answer_audio: str | None = None
    conversations: str | None = None
    language: str | None = None
    provenance: dict[str, str] = Field(default_factory=dict)
    quality: dict[str, str] = Field(default_factory=dict)

    def names(self) -> set[str]:
        """All columns that are read."""
        single = self.model_dump(exclude={"provenance", "quality"}).values()
        return {*filter(None, single), *self.provenance.values(), *self.quality.values()}


class RecordSettings(Recipe):
    """What every kind of source says of its records.

    Attributes:
        source: short name of the data set; keys of records begin with it.
        license: where the record does not say it itself.
        language: where the record does not say it itself.
        limit: use the first so many records only. Kinds that do not know their counts (tars,
            folders of other formats) are read up to there when the job is planned.
    """

    source: str = Field(pattern=r"^[A-Za-z0-9_-]{1,60}$")
    license: str = ""
    language: str = ""
    limit: int | None = Field(default=None, ge=1)


class RowSettings(RecordSettings):
    """How rows become records.

    Attributes:
        tasks: what a row is used for; with several, each row makes one record a task.
        columns: which column holds what.
        clean: repairs of `text`, `question` and `answer`, in order; see `cleanup`.
        markers: what stands for media in `conversations`, e.g. `{"<image>": image}`.
        caption_prompts: instructions for task `caption`; the row's key decides which.
        media_root: folder or URL that paths in media columns are relative to.
    """

    tasks: tuple[Task, ...] = Field(min_length=1)
    columns: Columns
    clean: tuple[Step, ...] = ()
    markers: dict[str, Literal["image", "audio"]] = Field(default_factory=dict)
    caption_prompts: tuple[str, ...] = Field(default=CAPTION_PROMPTS, min_length=1)
    media_root: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_tasks(self.tasks, self.columns)
        return self


class ParquetRecipe(RowSettings):
    """Parquet files, cut into ranges of rows that respect their row groups."""

    kind: Literal["parquet"]
    path: Paths
    records_per_shard: int = Field(default=1000, ge=1)


class JsonlRecipe(RowSettings):
    """One JSON object a line, cut into ranges of lines."""

    kind: Literal["jsonl"]
    path: Paths
    records_per_shard: int = Field(default=1000, ge=1)


class ConversationsRecipe(RecordSettings):
    """The published training format: one record a line, its media named by path.

    Attributes:
        media_root: folder or URL that `images` and `audios` are relative to.
    """

    kind: Literal["conversations"]
    path: Paths
    media_root: str | None = None
    records_per_shard: int = Field(default=1000, ge=1)


class MediaTarsRecipe(RecordSettings):
    """Our own media corpora: `KEY.json` with a record, `KEY.image0.jpg`, `KEY.audio0.flac`."""

    kind: Literal["media_tars"]
    path: Paths


class TarsRecipe(RecordSettings):
    """Other people's WebDataset tars; one tar is one partition.

    Attributes:
        layout: what a sample is made of. `img2dataset`: `image`, `caption`, `metadata`; `blip3o`:
            `image`, `caption`; `emilia`: `audio`, `metadata`; `custom`: what `members` says.
        members: for `custom`: name to the extensions that it may have, best first.
        columns: which of these holds what; the layouts other than `custom` have defaults.
    """

    kind: Literal["tars"]
    path: Paths
    layout: Literal["img2dataset", "blip3o", "emilia", "custom"]
    members: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    tasks: tuple[Task, ...] = Field(min_length=1)
    columns: Columns | None = None
    clean: tuple[Step, ...] = ()
    caption_prompts: tuple[str, ...] = Field(default=CAPTION_PROMPTS, min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.layout == "custom") != bool(self.members):
            raise ValueError("members belong to layout custom, and it needs them")
        check_tasks(self.tasks, self.row_settings().columns)
        return self

    def row_settings(self) -> RowSettings:
        """The same as settings for rows, with the layout's columns filled in."""
        columns = self.columns or LAYOUT_COLUMNS.get(self.layout)
        if columns is None:
            raise ValueError("layout custom needs columns")
        shared = set(RowSettings.model_fields) & set(type(self).model_fields) - {"columns"}
        return RowSettings(columns=columns, **{name: getattr(self, name) for name in shared})


class FolderRecipe(RecordSettings):
    """Speech data sets as they are unpacked: sound files beside lists of transcripts.

    Attributes:
        path: `librispeech`, `libritts`: a folder with speakers' folders at any depth;
            `common_voice`: a `.tsv` that lies beside `clips/`.
    """

    kind: Literal["folder"]
    layout: Literal["librispeech", "libritts", "common_voice"]
    path: str
    tasks: tuple[Literal["asr", "tts"], ...] = Field(min_length=1)
    clean: tuple[Step, ...] = ()
    records_per_shard: int = Field(default=1000, ge=1)


class HuggingFaceRecipe(RowSettings):
    """A data set of the Hugging Face hub, or a folder or saved data set that `datasets` can read.

    Parquet, which most are, is cut by rows; files of other formats are one partition each.

    Attributes:
        name: on the hub, or a local folder.
        config: which configuration of it.
        split: which split.
        revision: branch, tag or commit on the hub. Name a commit to be sure of the same data.
    """

    kind: Literal["huggingface"]
    name: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    records_per_shard: int = Field(default=1000, ge=1)


class DemoRecipe(RecordSettings):
    """Written records about pictures out of installed packages, for demos.

    Attributes:
        questions: so many pictures of easy-vqa with their questions (task vqa).
        questions_each: how many questions of each picture, a record each; the fewest have two.
        split: which pictures are asked about; those of `test` are others than those of `train`.
        drawings: so many drawings of OpenMoji, each asked for by its description (task t2i).
        captions: so many other drawings, each with its description (task caption).
    """

    kind: Literal["demo"]
    questions: int = Field(default=0, ge=0)
    questions_each: int = Field(default=1, ge=1)
    split: Literal["train", "test"] = "train"
    drawings: int = Field(default=0, ge=0)
    captions: int = Field(default=0, ge=0)
    records_per_shard: int = Field(default=100, ge=1)


SourceRecipe: TypeAlias = Annotated[
    ParquetRecipe
    | JsonlRecipe
    | ConversationsRecipe
    | MediaTarsRecipe
    | TarsRecipe
    | FolderRecipe
    | HuggingFaceRecipe
    | DemoRecipe,
    Field(discriminator="kind"),
]

LAYOUT_COLUMNS = {
    "img2dataset": Columns(image="image", text="caption"),
    "blip3o": Columns(image="image", text="caption"),
    "emilia": Columns(
        id="metadata.id",
        audio="audio",
        text="metadata.text",
        language="metadata.language",
        provenance={"speaker": "metadata.speaker"},
        quality={"duration_s": "metadata.duration", "dnsmos": "metadata.dnsmos"},
    ),
}
"""Columns of the layouts whose meaning is known."""


def check_tasks(tasks: tuple[str, ...], columns: Columns) -> None:
    """Whether the columns suffice for the tasks.

    Raises:
        ValueError: names the task and what it lacks.
    """
    if len(set(tasks)) != len(tasks):
        raise ValueError("a task stands twice")
    if columns.conversations is not None:
        if len(tasks) != 1:
            raise ValueError("conversations are of one task")
        return
    for task in tasks:
        if lacking := [n for n in FORMS[task].needs if getattr(columns, n) is None]:
            raise ValueError(f"task {task} needs columns.{', columns.'.join(lacking)}")
