"""A model that is sharded over two processes loads, computes, learns and saves as one does."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from dreams import tiny_dream
from omni_diffusion.backbone.attention import Segments
from omni_diffusion.backbone.checkpoint import load_checkpoint, load_dream, save_checkpoint
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.training.loss import head_loss

RANKS = 2
LENGTHS = [6, 9]


def loss_of(model: Dream, sample: int) -> torch.Tensor:
    """Loss of one sample over the number of targets of both."""
    generator = torch.Generator().manual_seed(sample)
    ids = torch.randint(48, (LENGTHS[sample],), generator=generator)
    hidden = model(ids, Segments([len(ids)]))
    return head_loss(hidden[:-1], model.lm_head.weight, ids[1:], sum(LENGTHS) - 2).loss


def as_one_of_two(rank: int, folder: str) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    rendezvous = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=rendezvous, rank=rank, world_size=RANKS)
    model = tiny_dream(seed=99).double()  # so that the order of sums does not show
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model, reshard_after_forward=False)
    load_checkpoint(model, Path(folder) / "before")
    # FSDP averages over ranks; the sum is what a global denominator asks for.
    (RANKS * loss_of(model, rank)).backward()
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    optimiser.step()
    assert all(isinstance(p, DTensor) for p in model.parameters())
    save_checkpoint(
        model.state_dict(),
        model.config,
        Path(folder) / "after",
        dtype=torch.float32,
        writer=rank == 0,
    )
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_load_learn_and_save_what_one_would(tmp_path):
    model = tiny_dream(seed=1)
    save_checkpoint(model.state_dict(), model.config, tmp_path / "before", dtype=torch.float32)
    torch.multiprocessing.spawn(as_one_of_two, (os.fspath(tmp_path),), nprocs=RANKS)
    model.double()
    (loss_of(model, 0) + loss_of(model, 1)).backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    after = load_dream(tmp_path / "after").state_dict()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(after[key], tensor.float(), rtol=1e-6, atol=1e-6)
