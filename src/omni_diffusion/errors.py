"""What can go wrong, as types.

Every error that a user can cause derives from `OmniError`; the command line prints its message
without a traceback and exits with 1. A message names the input (file, key, field), says what is
wrong with it and, where there is one, the way out.
"""


class OmniError(Exception):
    """Base of all errors caused by input, configuration or environment rather than by a bug."""


class RecipeError(OmniError):
    """A recipe has an unknown key, a wrong type, a missing field or cannot be read."""


class RecordError(OmniError):
    """A record breaks the data contract.

    Attributes:
        key: which record.
        field: which field of it, in dotted form (`messages.2.role`).
        reason: what is wrong, in words.
    """

    def __init__(self, key: str, field: str, reason: str) -> None:
        self.key, self.field, self.reason = key, field, reason
        super().__init__(f"record {key!r}, field {field!r}: {reason}")


class CorpusError(OmniError):
    """A corpus, shard, sidecar or index is damaged, foreign or inconsistent.

    Attributes:
        path: the file or folder at fault.
        reason: what is wrong, in words.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path, self.reason = str(path), reason
        super().__init__(f"{path}: {reason}")


class ShardConflictError(CorpusError):
    """Two writers produced different bytes for the same shard."""


class FingerprintError(CorpusError):
    """Corpora or shards made with different tokenizers or vocabularies would be mixed."""


class StorageError(CorpusError):
    """A file system or object store refused to read, write or list."""


class DiskFullError(StorageError):
    """There is no room left to write: trying again does not help."""


class WeightsError(OmniError):
    """Model weights are absent, unreadable or of another layout than the code expects."""


class MediaError(OmniError):
    """A picture or a sound cannot be used.

    Attributes:
        source: the file, key or name of the input.
        reason: what is wrong, in words.
    """

    def __init__(self, source: object, reason: str) -> None:
        self.source, self.reason = str(source), reason
        super().__init__(f"{source}: {reason}")


class CodeRangeError(OmniError):
    """A codebook or vocabulary id lies outside its range."""


class TextError(OmniError):
    """A text cannot be tokenized: it holds something that is not a Unicode character."""


class SourceError(OmniError):
    """A source of records is not there, or not of the form that the recipe says."""


class JobError(OmniError):
    """A job cannot start or cannot go on."""


class TrainingError(OmniError):
    """Training cannot start or cannot go on."""


class CheckpointError(TrainingError):
    """A checkpoint of a run is damaged, or belongs to another run.

    Attributes:
        path: its folder.
        reason: what is wrong, in words.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path, self.reason = str(path), reason
        super().__init__(f"{path}: {reason}")
