"""Train the demo speech tokenizer: a small WhisperVQ with 16,384 codes and a code-to-mel decoder.

    pip install py-nanotts emoji easy-vqa
    OMP_NUM_THREADS=1 python -m demo_tokenizers.speech OUT_DIR     (from the folder tools/)

writes `speech.safetensors` (float16) and `speech.json`, then prints how the stored files do on
held-out texts. Training alternates: an autoencoder with noise on its 12.5-Hz vectors first, then
rounds of fitting the codebook by k-means and of training through the quantiser, last the decoder
alone on the final codes. The seed fixes everything on one machine with one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from demo_tokenizers.speech_corpus import SAMPLE_RATE_HZ, paragraphs
from omni_diffusion.tokenize.speech.griffin_lim import (
    MEL_STEPS_PER_CODE,
    SAMPLES_PER_CODE,
    MelDecoder,
    MelDecoderConfig,
)
from omni_diffusion.tokenize.speech.mel import log_mel
from omni_diffusion.tokenize.speech.tokenizer import SpeechTokenizer, load_demo
from omni_diffusion.tokenize.speech.whisper_vq import WhisperVQConfig, WhisperVQEncoder

ENCODER = {
    "num_mel_bins": 128,
    "d_model": 96,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 384,
    "max_source_positions": 1500,
    "quantize_position": 2,
    "pooling_position": 2,
    "pooling_kernel_size": 4,
    "quantize_vocab_size": 16384,
    "quantize_causal_block_size": 200,
    "encoder_causal_convolution": True,
    "encoder_causal_attention": False,
    "quantize_causal_encoder": False,
    "pooling_type": "avg",
    "activation_function": "gelu",
}
DECODER = MelDecoderConfig(codebook_size=16384, code_width=96, width=160, n_blocks=2)

CORRELATION_FLOOR = 0.8
CODES_USED_FLOOR = 0.10
PARAGRAPH_S = 30.0
HELD_OUT_PARAGRAPHS = 40

_CODES_A_STEP = 320
_CROP_CODES = (20, 40, 80, 160, 320)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how hard to train.

    Attributes:
        paragraphs: stretches of 30 s to train on.
        warm_steps: steps of the plain autoencoder.
        round_steps: steps through the quantiser after each codebook fit but the last.
        rounds: codebook fits, each but the last followed by `round_steps`.
        decoder_steps: steps of the decoder alone, after the last fit.
        learning_rate: highest; falls to a twentieth over each of the three parts.
        rate_bits: information that the noise of the first part leaves in a vector, about.
    """

    paragraphs: int = 400
    warm_steps: int = 2000
    round_steps: int = 600
    rounds: int = 4
    decoder_steps: int = 1500
    learning_rate: float = 2e-3
    rate_bits: float = 22.0


class Trainer:
    """Encoder, decoder and the features they are trained on."""

    def __init__(self, speech: Sequence[NDArray[np.float32]], plan: Plan, seed: int) -> None:
        """Draw the initial weights and compute the features of `speech`."""
        torch.manual_seed(seed)
        self.plan, self.rng = plan, np.random.default_rng(seed)
        self.encoder = WhisperVQEncoder(WhisperVQConfig.from_dict(dict(ENCODER), "demo"))
        self.decoder = MelDecoder(DECODER)
        _set_sinusoids(self.encoder.embed_positions.weight)
        self.features = [log_mel(torch.from_numpy(samples)).half() for samples in speech]
        self.penalty = 1e-3

    def batch(self) -> Tensor:
        """Crops of one random length, `[batch, 128, steps]`; always 25.6 s of sound together."""
        codes = int(self.rng.choice(_CROP_CODES))
        steps = codes * MEL_STEPS_PER_CODE
        crops = []
        for _ in range(_CODES_A_STEP // codes):
            whole = self.features[int(self.rng.integers(len(self.features)))]
            start = int(self.rng.integers(whole.shape[1] - steps + 1))
            crops.append(whole[:, start : start + steps].float())
        return torch.stack(crops)

    def pooled(self, features: Tensor) -> Tensor:
        """Vectors before quantisation, `[batch, codes, width]`."""
        n_frames = torch.full((len(features),), features.shape[2] // 2)
        return self.encoder.pooled(features, n_frames)

    def run(self, n_steps: int, stage: str) -> None:
        """Train for `n_steps`: stage `warm`, `quantised` or `decoder`."""
        modules = [self.decoder] if stage == "decoder" else [self.encoder, self.decoder]
        fixed = {id(self.encoder.codebook.weight), id(self.encoder.embed_positions.weight)}
        weights = [p for m in modules for p in m.parameters() if id(p) not in fixed]
        optimizer = torch.optim.AdamW(weights, lr=self.plan.learning_rate, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.plan.learning_rate, n_steps, pct_start=0.1, final_div_factor=5.0
        )
        errors = []
        for step in range(n_steps):
            features = self.batch()
            loss, error = self.loss(features, stage)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            errors.append(error)
            if (step + 1) % 200 == 0:
                mean = float(np.mean(errors[-200:]))
                print(
                    f"{time.process_time():7.0f} s  {stage} {step + 1}: error {mean:.4f}",
                    flush=True,
                )

    def loss(self, features: Tensor, stage: str) -> tuple[Tensor, float]:
        """What to minimise, and the part of it that is the error of the features."""
        if stage == "decoder":
            with torch.no_grad():
                rows = self.encoder.codebook.weight[self.encoder.quantize(self.pooled(features))]
            extra = torch.zeros(())
        elif stage == "quantised":
            pooled = self.pooled(features)
            with torch.no_grad():
                nearest = self.encoder.codebook.weight[self.encoder.quantize(pooled)]
            rows = pooled + (nearest - pooled).detach()
            extra = 0.1 * F.mse_loss(pooled, nearest)
        else:
            pooled = self.pooled(features)
            rows = pooled + torch.randn_like(pooled)
            extra = self.penalty * pooled.square().sum(-1).mean()
            self._steer_penalty(pooled.detach())
        predicted = self.decoder(rows)
        error = F.mse_loss(predicted, features) + 0.2 * F.l1_loss(predicted, features)
        return error + extra, float(error.detach())

    def _steer_penalty(self, pooled: Tensor) -> None:
        """Keep the information under unit noise near `rate_bits` by the price of length."""
        bits = 0.5 * torch.log2(1.0 + pooled.flatten(0, 1).var(dim=0)).sum()
        self.penalty *= 1.01 if bits > self.plan.rate_bits else 1.0 / 1.01

    @torch.no_grad()
    def fit_codebook(self, n_rounds: int, fresh: bool) -> None:
        """K-means of all pooled vectors, from random vectors or from the codebook as it is.

        Rows that no vector chose are set to random vectors again, so none stays dead.
        """
        parts = [self.pooled(f[None].float())[0] for f in self.features]
        vectors, rows = torch.cat(parts), self.encoder.codebook.weight
        generator = torch.Generator().manual_seed(int(self.rng.integers(2**31)))
        if fresh:
            rows.copy_(vectors[torch.randperm(len(vectors), generator=generator)[: len(rows)]])
        for _ in range(n_rounds):
            chosen = torch.cat([self.encoder.quantize(part) for part in torch.split(vectors, 8192)])
            count = torch.bincount(chosen, minlength=len(rows))
            total = torch.zeros_like(rows).index_add_(0, chosen, vectors)
            used = count > 0
            rows[used] = total[used] / count[used, None]
            spare = torch.randint(len(vectors), (int((~used).sum()),), generator=generator)
            rows[~used] = vectors[spare]
        error = float((vectors - rows[chosen]).square().sum(-1).mean())
        spread = float(vectors.var(dim=0).sum())
        print(
            f"{time.process_time():7.0f} s  codebook: {len(vectors)} vectors, "
            f"{int(used.sum())} rows used, error {error:.2f} of variance {spread:.2f}",
            flush=True,
        )

    def save(self, out_dir: Path, seed: int) -> None:
        """Write weights as float16, and the configuration."""
        tensors = dict(self.encoder.state_dict())
        tensors |= {f"decoder.{key}": t for key, t in self.decoder.state_dict().items()}
        out_dir.mkdir(parents=True, exist_ok=True)
        stored = {key: tensor.half().contiguous() for key, tensor in tensors.items()}
        save_file(stored, out_dir / "speech.safetensors")
        config = {
            "name": "glm4voice-demo",
            "encoder": ENCODER,
            "decoder": asdict(DECODER),
            "made_by": {"script": "tools/demo_tokenizers/speech.py", "seed": seed},
            "plan": asdict(self.plan),
        }
        (out_dir / "speech.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def _set_sinusoids(positions: Tensor) -> None:
    """Fill `[positions, width]` with Whisper's fixed sines and cosines."""
    half = positions.shape[1] // 2
    rates = torch.exp(-torch.arange(half) * (np.log(10_000.0) / (half - 1)))
    angles = torch.arange(positions.shape[0])[:, None] * rates
    positions.copy_(torch.cat([angles.sin(), angles.cos()], dim=1))


def mel_correlation(samples: NDArray[np.float32], predicted: Tensor) -> float:
    """Pearson correlation of the features of a recording with predicted ones, over all bins.

    Args:
        samples: float32 `[n]` at 16 kHz, at most 30 s.
        predicted: `[128, steps]`, covering `samples` to the end of its last code.
    """
    whole = np.zeros(predicted.shape[1] // MEL_STEPS_PER_CODE * SAMPLES_PER_CODE, np.float32)
    whole[: len(samples)] = samples
    both = torch.stack([log_mel(torch.from_numpy(whole)).flatten(), predicted.flatten()])
    return float(torch.corrcoef(both)[0, 1])


def evaluate(folder: Path, speech: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
    """Mean mel correlation and share of the codebook in use, through the stored files."""
    encoder, decoder = load_demo(folder)
    tokenizer = SpeechTokenizer(encoder, name="glm4voice-demo", decoder=decoder)
    codes = tokenizer.encode([(samples, SAMPLE_RATE_HZ) for samples in speech])
    correlations = [
        mel_correlation(samples, decoder.log_mel(row))
        for samples, row in zip(speech, codes, strict=True)
    ]
    used = len(set(torch.cat(codes).tolist())) / tokenizer.codebook_size
    return float(np.mean(correlations)), used


def train(out_dir: Path, seed: int, plan: Plan) -> None:
    """Train, store and evaluate; see the module's description."""
    torch.set_num_threads(1)
    speech = paragraphs(plan.paragraphs, PARAGRAPH_S, held_out=False, seed=seed)
    held_out = paragraphs(HELD_OUT_PARAGRAPHS, PARAGRAPH_S, held_out=True, seed=seed + 1)
    trainer = Trainer(speech, plan, seed)
    trainer.run(plan.warm_steps, "warm")
    for number in range(plan.rounds):
        last = number == plan.rounds - 1
        trainer.fit_codebook(n_rounds=6 if number == 0 else 3, fresh=number == 0)
        trainer.run(
            plan.decoder_steps if last else plan.round_steps, "decoder" if last else "quantised"
        )
        trainer.save(out_dir, seed)
        correlation, used = evaluate(out_dir, held_out)
        print(
            f"{time.process_time():7.0f} s  held out ({len(held_out)} x {PARAGRAPH_S:g} s): "
            f"mel correlation {correlation:.3f} (floor {CORRELATION_FLOOR}), "
            f"codes in use {used:.1%} (floor {CODES_USED_FLOOR:.0%})",
            flush=True,
        )
    note_held_out(out_dir, len(held_out) * PARAGRAPH_S, correlation, used)
    if correlation < CORRELATION_FLOOR or used < CODES_USED_FLOOR:
        raise SystemExit("below the floors")


def note_held_out(folder: Path, duration_s: float, correlation: float, used: float) -> None:
    """Keep what was measured on held-out speech beside the weights."""
    path = folder / "speech.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["held_out"] = {
        "duration_s": duration_s,
        "mel_correlation": round(correlation, 3),
        "codes_used_share": round(used, 3),
    }
    path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    for name, default in asdict(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args())
    out_dir, seed = options.pop("out_dir"), options.pop("seed")
    train(out_dir, seed, Plan(**options))


if __name__ == "__main__":
    main()
