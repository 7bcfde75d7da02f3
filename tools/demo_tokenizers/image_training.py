"""How the demo image tokenizer is trained: a small core first, then the whole network around it.

Every step is a function of the seed and its own number: its pictures, its noise and its learning
rate. So a training that was broken off goes on from its last stored step to the same end.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from demo_tokenizers.image_corpus import SIDE, Drawing, to_batch, varied
from demo_tokenizers.image_growth import CORE_SIDE, OUTER_LEVELS, grow, new_core, new_whole
from demo_tokenizers.image_losses import (
    CELL,
    CodeLoss,
    cell_weights,
    picture_loss,
    straight_through,
)
from omni_diffusion.tokenize.image.magvit2 import MagvitV2

KEEP_EVERY = 50
"""Steps after which progress is printed and the state stored."""

_NOISE = 0.4
_WARM_SHARE, _LAST_RATE = 0.08, 0.02


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how hard to train.

    Attributes:
        warm_steps: steps of the core with noise instead of quantisation.
        core_steps: steps of the core with quantisation.
        whole_steps: steps of everything.
        core_batch: pictures of 64x64 a step.
        whole_batch: pictures of 256x256 a step.
        core_rate: highest learning rate of the core; each part falls to nearly zero.
        whole_rate: the same for everything.
        shapes_share: how much of a batch is easy-vqa; the rest is OpenMoji.
        commitment_weight: of the penalty for outputs that are not near -1 or 1.
        spread_weight: of the reward for using all codes equally.
        correlation_weight: of the penalty for bits that go together.
    """

    warm_steps: int = 100
    core_steps: int = 1900
    whole_steps: int = 200
    core_batch: int = 4
    whole_batch: int = 2
    core_rate: float = 1.5e-3
    whole_rate: float = 5e-4
    shapes_share: float = 0.12
    commitment_weight: float = 0.5
    spread_weight: float = 1.0
    correlation_weight: float = 0.5


class Trainer:
    """The core and the whole network, and the pictures they learn from."""

    def __init__(
        self,
        drawings: Sequence[Drawing],
        shapes: Sequence[Drawing],
        plan: Plan,
        seed: int,
        store: Path | None = None,
    ) -> None:
        """Draw the initial weights.

        Args:
            drawings: OpenMoji's, those to train on.
            shapes: easy-vqa's.
            plan: how long and how hard.
            seed: fixes everything.
            store: file to keep the state in while training, and to go on from if it is there.
        """
        torch.manual_seed(seed)
        self.plan, self.seed, self.store = plan, seed, store
        self.drawings, self.shapes = drawings, shapes
        self.core, self.whole = new_core(), new_whole()
        self.code_loss = CodeLoss(
            plan.commitment_weight, plan.spread_weight, plan.correlation_weight
        )

    def train(self) -> MagvitV2:
        """Train both and return the whole network.

        Raises:
            SystemExit: `store` holds the state of another training.
        """
        plan = self.plan
        stored = self._stored()
        if stored.get("stage") != "whole":
            n_steps = plan.warm_steps + plan.core_steps
            loop = _Loop(self, "core", self.core, plan.core_rate, n_steps)
            loop.restore(stored)
            loop.run(plan.core_batch, CORE_SIDE, plan.warm_steps)
            grow(self.core, self.whole)
        loop = _Loop(self, "whole", self.whole, plan.whole_rate, plan.whole_steps)
        loop.restore(stored)
        loop.run(plan.whole_batch, SIDE, 0)
        return self.whole

    def batch(self, n: int, side: int, rng: random.Random) -> Tensor:
        """Pictures `[n, 3, side, side]`."""
        pictures = []
        for _ in range(n):
            pool = self.shapes if rng.random() < self.plan.shapes_share else self.drawings
            pictures.append(varied(rng.choice(pool), side, rng))
        return to_batch(pictures)

    def identity(self) -> dict[str, Any]:
        """What a stored state must have been made with."""
        return {"seed": self.seed, "plan": asdict(self.plan), "drawings": len(self.drawings)}

    def _stored(self) -> dict[str, Any]:
        if self.store is None or not self.store.exists():
            return {}
        stored: dict[str, Any] = torch.load(self.store, weights_only=True)
        if stored["identity"] != self.identity():
            raise SystemExit(f"{self.store}: of a training with other settings; remove it first")
        print(f"goes on after {stored['stage']} {stored['step']} of {self.store}", flush=True)
        return stored


class _Loop:
    """Optimiser, progress and storing of one part of the training."""

    def __init__(
        self, trainer: Trainer, stage: str, model: MagvitV2, rate: float, n_steps: int
    ) -> None:
        self.trainer, self.stage, self.model = trainer, stage, model
        self.rate, self.n_steps, self.done = rate, n_steps, 0
        self.weights = list(model.parameters())
        self.optimizer = torch.optim.AdamW(self.weights, lr=rate, betas=(0.9, 0.98))
        self.recent: list[tuple[float, float]] = []

    def restore(self, stored: dict[str, Any]) -> None:
        """Go on from a stored state, if it is of this part."""
        if stored.get("stage") == self.stage:
            self.model.load_state_dict(stored["model"])
            self.optimizer.load_state_dict(stored["optimizer"])
            self.done = stored["step"]

    def run(self, batch: int, side: int, warm_steps: int) -> None:
        """Train to the end of this part."""
        cell = CELL if side == SIDE else CELL >> OUTER_LEVELS
        while self.done < self.n_steps:
            rng = random.Random(f"{self.trainer.seed} {self.stage} {self.done}")
            pixels = self.trainer.batch(batch, side, rng)
            noise = torch.Generator().manual_seed(rng.getrandbits(48))
            # Both networks take half the time in bfloat16.
            with torch.autocast("cpu", torch.bfloat16):
                latents = self.model.encoder(pixels).float()
                if self.done < warm_steps:
                    coded = latents + _NOISE * torch.randn(latents.shape, generator=noise)
                else:
                    coded = straight_through(latents)
                made = self.model.decoder(coded).float()
            codes = self.trainer.code_loss(latents, cell_weights(pixels, cell))
            self._step(picture_loss(made, pixels), codes)

    def _step(self, pictures: Tensor, codes: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * _share_of_rate((self.done + 0.5) / self.n_steps)
        self.optimizer.zero_grad()
        (pictures + codes).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.done += 1
        self.recent.append((float(pictures.detach()), float(codes.detach())))
        if self.done % KEEP_EVERY == 0:
            self._report()
            self._keep()

    def _report(self) -> None:
        pictures, codes = (sum(column) / len(column) for column in zip(*self.recent, strict=True))
        self.recent = []
        # The loss is a mean logarithm: in decibels it is nearly the mean PSNR.
        decibel = 10 * (math.log10(4) - pictures / math.log(10))
        print(
            f"{time.process_time():7.0f} s  {self.stage} {self.done} of {self.n_steps}: "
            f"about {decibel:.2f} dB, loss of the codes {codes:.4f}",
            flush=True,
        )

    def _keep(self) -> None:
        """Replace the stored state in one go, so that a kill leaves the old or the new one."""
        store = self.trainer.store
        if store is None:
            return
        state = {
            "identity": self.trainer.identity(),
            "stage": self.stage,
            "step": self.done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        fresh = store.with_name(f"{store.name}.new")
        torch.save(state, fresh)
        fresh.replace(store)


def _share_of_rate(progress: float) -> float:
    """Learning rate over its highest, at a share of the steps: up in a line, down in a cosine."""
    if progress < _WARM_SHARE:
        return progress / _WARM_SHARE
    fallen = (1 - math.cos(math.pi * (progress - _WARM_SHARE) / (1 - _WARM_SHARE))) / 2
    return 1 - (1 - _LAST_RATE) * fallen
