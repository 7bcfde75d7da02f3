"""Figures of a step: the same over any split into parts and ranks, and honest about gaps."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from dreams import tiny_dream
from omni_diffusion.backbone.attention import Segments
from omni_diffusion.errors import OmniError
from omni_diffusion.tokenize.vocabulary import TokenKind
from omni_diffusion.training.flops import ModelFlops, peak_flops
from omni_diffusion.training.loader import Loader
from omni_diffusion.training.metrics import Meter
from omni_diffusion.training.metrics_file import NAME, MetricsFile, cut_back, read_metrics
from omni_diffusion.training.opening import open_data
from omni_diffusion.training.recipe import MaskingRecipe
from training_fixtures import make_recipe

SAME = ("loss", "cross_entropy", "loss_by", "tokens", "fill", "samples", "left_out", "step")


@pytest.fixture(scope="module")
def data(corpora):
    return opened(corpora)


def opened(corpora):
    return open_data(make_recipe(corpora, rows_per_step=24, evaluation={"held_out": 0.1}))


def batches(data, world_size: int) -> list:
    """A step, rank by rank."""
    found = []
    for rank in range(world_size):
        with Loader(data, MaskingRecipe(), rank=rank, world_size=world_size) as loader:
            found.append(loader.batch(3))
    return found


def losses_of(batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Targets of a batch, with losses that follow from the hidden ids, and their weighted sum."""
    where = np.flatnonzero(batch.masked)
    losses = torch.from_numpy(batch.ids.reshape(-1)[where] % 97 / 10.0)
    weights = torch.from_numpy(batch.loss_weight.reshape(-1)[where])
    return torch.from_numpy(where), losses, (losses * weights).sum() / 1000


def measured(meter: Meter, parts: list) -> dict:
    for batch in parts:
        meter.add(batch, *losses_of(batch))
    return meter.record("train", 4, {"lr": 0.5})


def same(one: dict, other: dict) -> None:
    for name in SAME:
        assert flat(one[name]) == pytest.approx(flat(other[name]), rel=1e-12), name


def flat(value):
    if isinstance(value, dict):
        return {f"{a}/{b}": x for a, v in value.items() for b, x in pairs(v)}
    return value


def pairs(value):
    return value.items() if isinstance(value, dict) else [("", value)]


def test_a_record_is_what_the_targets_say(data) -> None:
    (batch,) = batches(data, 1)
    found = measured(Meter(data.tasks), [batch])
    where, losses, objective = losses_of(batch)
    kind = batch.modality.reshape(-1)[where]
    assert found["loss"] == pytest.approx(float(objective))
    assert found["cross_entropy"] == pytest.approx(float(losses.mean()))
    by = found["loss_by"]["modality"]
    assert set(by) == {k.name.lower() for k in TokenKind if (kind == k).any()} and len(by) == 4
    for name, loss in by.items():
        expected = losses[torch.from_numpy(kind == TokenKind[name.upper()])].mean()
        assert loss == pytest.approx(float(expected))
    samples, length = batch.samples, batch.ids.shape[1]
    row, at = where.numpy() // length, where.numpy() % length
    owner = [
        int(np.flatnonzero((samples.row == r) & (samples.start <= a))[-1])
        for r, a in zip(row, at, strict=True)
    ]
    for task, loss in found["loss_by"]["task"].items():
        mine = torch.tensor([samples.tasks[i] == task for i in owner])
        assert loss == pytest.approx(float(losses[mine].mean()))
    bucket = np.minimum((samples.ratio[owner] * 10).astype(int), 9)
    assert set(found["loss_by"]["t"]) == {f"{b / 10:.1f}-{(b + 1) / 10:.1f}" for b in bucket}
    for b in set(bucket.tolist()):
        name = f"{b / 10:.1f}-{(b + 1) / 10:.1f}"
        mean = float(losses[torch.from_numpy(bucket == b)].mean())
        assert found["loss_by"]["t"][name] == pytest.approx(mean)
    assert found["tokens"] == {
        "useful": int(samples.length.sum() - batch.tail.sum()),
        "tail_pads": int(batch.tail.sum()),
        "targets": len(where),
        "positions": batch.ids.size,
    }
    assert found["fill"] == pytest.approx(batch.fill)
    assert found["lr"] == 0.5 and found["mfu"] is None and found["memory_mb"] > 10


def test_parts_of_a_step_add_up_and_a_record_begins_anew(data) -> None:
    whole, parts = batches(data, 1), batches(data, 3)
    meter = Meter(data.tasks)
    first = measured(meter, whole)
    same(measured(meter, parts), first)


def as_one_of_two(rank: int, folder: str, corpora: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2
    )
    data = opened(corpora)
    found = measured(Meter(data.tasks), [batches(data, 2)[rank]])
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_every_rank_has_the_record_of_all(data, corpora, tmp_path) -> None:
    arguments = (os.fspath(tmp_path), os.fspath(corpora))
    torch.multiprocessing.spawn(as_one_of_two, arguments, nprocs=2)
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == other
    same(one, measured(Meter(data.tasks), batches(data, 1)))


def test_what_had_no_targets_is_left_out_not_zero(data) -> None:
    found = Meter(data.tasks).record("eval", 0)
    assert found["cross_entropy"] is None
    assert found["loss_by"] == {"task": {}, "modality": {}, "t": {}}


def test_waiting_for_data_is_counted_apart(data) -> None:
    meter = Meter(data.tasks)
    passed = list(meter.timed(iter(batches(data, 2))))
    assert len(passed) == 2
    found = meter.record("train", 1)
    assert 0 < found["data_wait_s"] <= found["seconds"]


@pytest.mark.parametrize(("checkpointing", "targets"), [(False, 40), (True, 7)])
def test_operations_needed_are_those_that_pytorch_counts(checkpointing, targets) -> None:
    """Attention is not counted by PyTorch on the CPU, and so compared by its own formula."""
    model = tiny_dream()
    with FlopCounterMode(display=False) as counter:
        hidden = model(torch.arange(40), Segments([40]))
        model.logits(hidden[:targets]).sum().backward()
    count = ModelFlops.of(model)
    assert count.needed(40, 0, targets) == counter.get_total_flops()
    assert count.needed(40, 1600, targets) - count.needed(40, 0, targets) == 12 * 1600 * 16 * 2
    spent = count.spent(40, 1600, targets, checkpointing=checkpointing)
    assert spent > count.needed(40, 1600, targets)


def test_utilisation_is_operations_by_what_the_devices_could_do(data) -> None:
    flops = ModelFlops.of(tiny_dream())
    (batch,) = batches(data, 1)
    found = measured(Meter(data.tasks, flops=flops, peak_flops=1e9), [batch])
    tokens = found["tokens"]
    pairs_ = int((batch.samples.length.astype(int) ** 2).sum())
    done = flops.needed(tokens["useful"] + tokens["tail_pads"], pairs_, tokens["targets"])
    assert found["mfu"] == pytest.approx(done / found["seconds"] / 1e9)
    assert peak_flops(torch.device("cpu")) is None


def record(step: int, kind: str = "train", **values) -> dict:
    return {"kind": kind, "step": step, "loss": 1.0, **values}


def test_a_file_is_cut_back_to_a_step_and_gone_on_with(tmp_path) -> None:
    with MetricsFile(tmp_path) as file:
        for step in range(1, 8):
            file.write(record(step))
        file.write(record(7, "eval"))
    with (tmp_path / NAME).open("a") as torn:
        torn.write('{"kind": "train", "step": 8, "lo')
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6, 7, 7]
    assert cut_back(tmp_path, 5) == 3
    with MetricsFile(tmp_path) as file:
        file.write(record(6, loss=2.0))
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path)] == [
        *((step, 1.0) for step in range(1, 6)),
        (6, 2.0),
    ]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_record_torn_anywhere_costs_that_record_only(tmp_path) -> None:
    line = json.dumps(record(2)) + "\n"
    for length in range(len(line)):
        (tmp_path / NAME).write_text(json.dumps(record(1)) + "\n" + line[:length])
        assert [r["step"] for r in read_metrics(tmp_path)] == [1]
        cut_back(tmp_path, 1)
        assert (tmp_path / NAME).read_text() == json.dumps(record(1)) + "\n"


def test_figures_that_are_not_finite_stay_json(tmp_path) -> None:
    with MetricsFile(tmp_path) as file:
        file.write(record(1, grad_norm=float("nan"), loss_by={"t": {"0.0-0.1": float("inf")}}))
    (found,) = read_metrics(tmp_path)
    assert found["grad_norm"] is None and found["loss_by"]["t"]["0.0-0.1"] is None


def test_foreign_lines_and_absent_files_are_named(tmp_path) -> None:
    with pytest.raises(OmniError, match="not there"):
        read_metrics(tmp_path)
    assert cut_back(tmp_path, 3) == 0
    for bad in ("hello", "[1]", '{"kind": "train"}', "3"):
        (tmp_path / NAME).write_text(json.dumps(record(1)) + f"\n{bad}\n")
        with pytest.raises(OmniError, match="line 2 is no record"):
            read_metrics(tmp_path)
