"""`omni-diffusion tokenize`: any source to a token corpus."""

from __future__ import annotations

import difflib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.corpus.sample import encode_sample
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import JobError
from omni_diffusion.pipelines.plan import make_plan, read_plan
from omni_diffusion.pipelines.sources import absolute_paths, open_source
from omni_diffusion.pipelines.sources.files import absolute
from omni_diffusion.pipelines.sources.partition import Source
from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe
from omni_diffusion.recipe import RECIPE, save_recipe

if TYPE_CHECKING:
    from omni_diffusion.pipelines.tokenize_worker import TokenizeWorker

_PROBE_RECORDS = 16
_PROBE_S = 10.0


@dataclass(frozen=True, slots=True)
class TokenizeJob:
    """See `pool.Job`."""

    recipe: TokenizeRecipe

    @property
    def name(self) -> str:
        """The verb."""
        return "tokenize"

    @property
    def output(self) -> str:
        """Folder or URL of the corpus."""
        return self.recipe.output

    def source(self) -> Source:
        """The records."""
        return open_source(self.recipe.source)

    def worker(self) -> TokenizeWorker:
        """The tokenizers, loaded."""
        from omni_diffusion.pipelines.tokenize_worker import TokenizeWorker

        return TokenizeWorker(self.recipe)


def job_of(recipe: TokenizeRecipe) -> TokenizeJob:
    """The job that a recipe describes, for processes that run in other folders than this one."""
    places = {"source": absolute_paths(recipe.source), "output": absolute(recipe.output)}
    if recipe.cache:
        places["cache"] = absolute(recipe.cache)
    names = recipe.tokenizers.model_dump()
    local = {key: absolute(name) for key, name in names.items() if name and Path(name).exists()}
    tokenizers = recipe.tokenizers.model_copy(update=local)
    return TokenizeJob(recipe.model_copy(update={**places, "tokenizers": tokenizers}))


def claim_output(recipe: TokenizeRecipe) -> str:
    """Keep the recipe in the output, or make sure that it is the one that is kept there.

    Returns:
        The digest of what decides the bytes.

    Raises:
        JobError: another recipe was begun there; shows the lines that differ.
        StorageError: the output cannot be written.
    """
    storage, content = Storage(recipe.output), recipe.content()
    if storage.size(RECIPE) is not None:
        theirs = storage.read(RECIPE).decode(errors="replace").splitlines()
        ours = content.to_yaml().splitlines()
        if theirs != ours:
            lines = difflib.unified_diff(theirs, ours, "there", "here", lineterm="", n=0)
            changes = "\n  ".join(line for line in lines if line[:1] in "+-")
            raise JobError(
                f"{storage.root}: was begun with another recipe:\n  {changes}\n"
                "write to another folder, or go on with the recipe that is there"
            )
    save_recipe(content, storage)
    return content.digest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a job would do, from its plan and a few records of its first partition.

    Attributes:
        partitions: shards to be.
        done: those that exist already.
        records: in the source, or None where it does not know.
        source_bytes: to be read, or None.
        probed: records that were tokenized to measure.
        probe_rejects: those of them that were rejected.
        seconds_per_record: on this machine, with one worker, or None where nothing was probed.
        bytes_per_record: in the corpus.
        worker_hours: for what is left, or None.
        output_bytes: of the whole corpus, or None.
        first: names of the first partitions.
    """

    partitions: int
    done: int
    records: int | None
    source_bytes: int | None
    probed: int
    probe_rejects: int
    seconds_per_record: float | None
    bytes_per_record: float | None
    worker_hours: float | None
    output_bytes: int | None
    first: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def estimate(recipe: TokenizeRecipe) -> Estimate:
    """Plan a job and tokenize a few records, without writing anything.

    Raises:
        SourceError: the source is not there or of another form.
        WeightsError: a tokenizer cannot be loaded.
    """
    from omni_diffusion.pipelines.ledger import read_ledger

    job, storage = TokenizeJob(recipe), Storage(recipe.output)
    source = job.source()
    plan = read_plan(storage) or make_plan(source)
    done = len(read_ledger(storage, len(plan)).done)
    worker = TokenizeJob(recipe.model_copy(update={"cache": None, "batch": 1})).worker()
    size = probed = rejects = 0
    started = time.monotonic()
    for result in worker.samples(iter(source.read(plan.partition(0)))):
        probed += 1
        if isinstance(result, Reject):
            rejects += 1
        else:
            size += len(encode_sample(result))
        if probed >= _PROBE_RECORDS or time.monotonic() - started > _PROBE_S:
            break
    each = (time.monotonic() - started) / probed if probed else None
    kept = size / (probed - rejects) if probed > rejects else None
    records = plan.total("rows")
    left = records * (len(plan) - done) / len(plan) if records is not None else None
    return Estimate(
        partitions=len(plan),
        done=done,
        records=records,
        source_bytes=plan.total("size"),
        probed=probed,
        probe_rejects=rejects,
        seconds_per_record=each,
        bytes_per_record=kept,
        worker_hours=left * each / 3600 if left is not None and each else None,
        output_bytes=int(records * kept) if records is not None and kept else None,
        first=tuple(plan.partition(n).name for n in range(min(5, len(plan)))),
    )
