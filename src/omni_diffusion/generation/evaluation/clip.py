"""CLIP scores of pictures: with the text they were drawn from, and with a reference picture.

CLIP-T is the mean cosine of text and picture, CLIP-I that of two pictures. The model runs through
transformers by hub name or local path; pictures are prepared here as its `preprocessor_config.json`
says (shorter side, centre crop, mean and deviation), since transformers' own way needs torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omni_diffusion.errors import RecipeError, WeightsError
from omni_diffusion.tokenize.speech.published_config import read_json
from omni_diffusion.tokenize.weights import resolve_weights

STANDARD: Final = "openai/clip-vit-large-patch14"
_FILES = ("*.json", "*.txt", "*.safetensors")
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class Clip:
    """A CLIP model.

    Attributes:
        name: as it was asked for.
    """

    def __init__(self, name_or_path: str = STANDARD, device: str = "cpu") -> None:
        """Load it.

        Raises:
            RecipeError: transformers is not installed.
            WeightsError: the model is not there.
        """
        try:
            import transformers
        except ImportError as error:
            hint = "pip install 'omni-diffusion[evaluate]'"
            raise RecipeError(f"CLIP: {error}; {hint}") from None
        folder = resolve_weights(name_or_path, _FILES)
        self.name, self._device = name_or_path, device
        try:
            library: Any = transformers
            self._model = library.CLIPModel.from_pretrained(folder, local_files_only=True)
            self._tokenizer = library.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise WeightsError(f"{name_or_path}: cannot be read as CLIP: {error}") from None
        self._model = self._model.to(device).eval()
        self._size = int(self._model.config.vision_config.image_size)
        self._mean, self._deviation = _statistics(folder)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of texts, cut to what the model reads: float32 [n, d]."""
        longest = int(self._model.config.text_config.max_position_embeddings)
        given = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self._device)
        hidden = self._model.text_model(
            input_ids=given["input_ids"], attention_mask=given["attention_mask"]
        )
        return _unit(self._model.text_projection(hidden.pooler_output))

    @torch.no_grad()
    def pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Unit vectors of pictures: float32 [n, d]."""
        pixels = torch.stack([self.pixels(picture) for picture in pictures]).to(self._device)
        hidden = self._model.vision_model(pixel_values=pixels)
        return _unit(self._model.visual_projection(hidden.pooler_output))

    def pixels(self, picture: Image.Image) -> Tensor:
        """A picture as the model takes it: float32 [3, size, size]."""
        rgb, size = picture.convert("RGB"), self._size
        width, height = rgb.size
        short, long = min(width, height), max(width, height)
        other = int(size * long / short)
        shape = (size, other) if width <= height else (other, size)
        rgb = rgb.resize(shape, Image.Resampling.BICUBIC)
        left, top = ((side - size) // 2 for side in shape)
        rgb = rgb.crop((left, top, left + size, top + size))
        levels = torch.from_numpy(np.asarray(rgb, np.float32) / 255).permute(2, 0, 1)
        mean, deviation = (torch.tensor(x)[:, None, None] for x in (self._mean, self._deviation))
        return (levels - mean) / deviation


def mean_cosine(one: Tensor, other: Tensor) -> float:
    """Mean cosine of unit vectors, pair by pair."""
    return float((one * other).sum(1).mean())


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=1).cpu()


def _statistics(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    file = folder / "preprocessor_config.json"
    said = read_json(file) if file.is_file() else {}
    return said.get("image_mean", _MEAN), said.get("image_std", _DEVIATION)
