"""The configuration of the GLM-4-Voice decoder, from `config.json` or as published.

zai-org/glm-4-voice-decoder describes itself in a `config.yaml` that is a program (hyperpyyaml
builds Python objects from it), so it is not read: the values of that file are the defaults of the
dataclasses here. A folder with a `config.json`, the same sections as plain data, overrides them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omni_diffusion.errors import WeightsError
from omni_diffusion.tokenize.speech.conformer import ConformerConfig
from omni_diffusion.tokenize.speech.flow import (
    MEL_HOP_LENGTH,
    MEL_SAMPLE_RATE_HZ,
    FlowConfig,
)
from omni_diffusion.tokenize.speech.flow_estimator import GROUPS, EstimatorConfig
from omni_diffusion.tokenize.speech.hift import HiFTConfig
from omni_diffusion.tokenize.speech.published_config import fill, read_json, require, subsection

_SECTIONS = frozenset(
    ("flow", "encoder", "length_regulator", "cfm", "estimator", "hift", "f0_predictor")
)
_ENCODER_FIXED = {
    "normalize_before": True,
    "input_layer": "linear",
    "pos_enc_layer_type": "rel_pos_espnet",
    "selfattention_layer_type": "block_rel_selfattn",
    "use_cnn_module": False,
    "macaron_style": False,
}
_ENCODER_UNUSED = ("dropout_rate", "positional_dropout_rate", "attention_dropout_rate")
_SOLVER_FIXED = {"solver": "euler", "t_scheduler": "cosine"}


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Flow and vocoder; defaults are those of zai-org/glm-4-voice-decoder."""

    flow: FlowConfig = field(default_factory=FlowConfig)
    hift: HiFTConfig = field(default_factory=HiFTConfig)

    @classmethod
    def from_folder(cls, folder: Path) -> DecoderConfig:
        """Read `config.json` of a weights folder; the published values where there is none.

        Raises:
            WeightsError: the file has an unknown setting or one that the code does not support.
        """
        path = folder / "config.json"
        config = _parse(read_json(path), path) if path.exists() else cls()
        _check(config, path)
        return config


def _parse(raw: dict[str, Any], path: Path) -> DecoderConfig:
    """Turn the sections into dataclasses."""
    if unknown := sorted(set(raw) - _SECTIONS):
        raise WeightsError(f"{path}: unknown section {unknown[0]!r}")
    section = {name: subsection(raw, name, str(path)) for name in _SECTIONS}
    cfm = section["cfm"]
    solver = subsection(cfm, "cfm_params", f"{path}: cfm")
    encoder = fill(
        ConformerConfig, section["encoder"], f"{path}: encoder", _ENCODER_FIXED, _ENCODER_UNUSED
    )
    estimator = fill(
        EstimatorConfig, section["estimator"], f"{path}: estimator", {"act_fn": "gelu"}, ["dropout"]
    )
    guidance = {k: v for k, v in solver.items() if k == "inference_cfg_rate"}
    regulator = section["length_regulator"]
    flow = fill(
        FlowConfig,
        section["flow"] | guidance,
        f"{path}: flow",
        {"output_type": "mel"},
        ["only_mask_loss"],
        regulator_layers=len(regulator.get("sampling_ratios", [1] * 4)),
        encoder=encoder,
        estimator=estimator,
    )
    bands = flow.output_size
    require(regulator, f"{path}: length_regulator", {"channels": bands})
    require(cfm, f"{path}: cfm", {"in_channels": 3 * bands, "n_spks": 1, "spk_emb_dim": bands})
    require(solver, f"{path}: cfm.cfm_params", _SOLVER_FIXED)
    return DecoderConfig(flow=flow, hift=_parse_hift(section, path))


def _parse_hift(section: dict[str, dict[str, Any]], path: Path) -> HiFTConfig:
    """Join the vocoder's section, its Fourier sizes and the pitch predictor's width."""
    hift = dict(section["hift"])
    sizes = subsection(hift, "istft_params", f"{path}: hift")
    hift.pop("istft_params", None)
    pitch = section["f0_predictor"]
    width = {"f0_channels": pitch["cond_channels"]} if "cond_channels" in pitch else {}
    config = fill(HiFTConfig, hift | sizes | width, f"{path}: hift")
    require(pitch, f"{path}: f0_predictor", {"num_class": 1, "in_channels": config.in_channels})
    return config


def _check(config: DecoderConfig, path: Path) -> None:
    """Refuse sizes that do not fit each other."""
    flow, hift = config.flow, config.hift
    encoder, estimator = flow.encoder, flow.estimator
    stages = {
        len(hift.upsample_rates),
        len(hift.upsample_kernel_sizes),
        len(hift.source_resblock_kernel_sizes),
        len(hift.source_resblock_dilation_sizes),
    }
    rules = {
        "encoder.input_size must equal flow.input_size": encoder.input_size == flow.input_size,
        "encoder.output_size must be an even multiple of attention_heads": (
            encoder.attention_heads > 0
            and encoder.output_size % 2 == 0
            and encoder.output_size % encoder.attention_heads == 0
        ),
        "encoder.block_size must be positive": encoder.block_size > 0,
        "flow.input_frame_rate must be positive": flow.input_frame_rate > 0,
        "estimator.in_channels must be four times flow.output_size": (
            estimator.in_channels == 4 * flow.output_size
        ),
        "estimator.out_channels must equal flow.output_size": (
            estimator.out_channels == flow.output_size
        ),
        f"estimator.channels must be multiples of {GROUPS}": all(
            width and width % GROUPS == 0 for width in estimator.channels
        ),
        "hift.in_channels must equal flow.output_size": hift.in_channels == flow.output_size,
        "hift must have as many kernels and source blocks as upsample_rates": len(stages) == 1,
        "hift.resblock_kernel_sizes and dilations must be equally many": (
            len(hift.resblock_kernel_sizes) == len(hift.resblock_dilation_sizes)
        ),
        f"hift must make {MEL_HOP_LENGTH} samples a frame at {MEL_SAMPLE_RATE_HZ} Hz": (
            hift.hop_length == MEL_HOP_LENGTH and hift.sampling_rate == MEL_SAMPLE_RATE_HZ
        ),
    }
    for rule, kept in rules.items():
        if not kept:
            raise WeightsError(f"{path}: {rule}")
