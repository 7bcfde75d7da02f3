"""Options that `encode`, `decode`, `show` and `report` share: which tokenizers to use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from omni_diffusion.tokenize.media import MediaTokenizers

DEMO = typer.Option(False, "--demo", help="Use the small tokenizers that ship in this package.")
IMAGE = typer.Option(
    "showlab/magvitv2", "--image-tokenizer", help="Picture tokenizer: hub name or folder."
)
SPEECH = typer.Option(
    "zai-org/glm-4-voice-tokenizer",
    "--speech-tokenizer",
    help="Speech tokenizer: hub name or folder.",
)
DECODER = typer.Option(
    "zai-org/glm-4-voice-decoder", "--speech-decoder", help="Speech decoder: hub name or folder."
)
DEVICE = typer.Option("cpu", "--device", help="Where to run: cpu, cuda, cuda:1, ...")


def tokenizers(
    demo: bool,
    image: str,
    speech: str,
    decoder: str,
    device: str,
    resolution: int = 256,
    crop: bool = True,
) -> MediaTokenizers:
    """The tokenizers that the options name."""
    from omni_diffusion.tokenize.media import MediaTokenizers

    if demo:
        image = speech = decoder = "demo"
    return MediaTokenizers(
        image=image,
        speech=speech,
        speech_decoder=decoder,
        resolution=resolution,
        crop=crop,
        device=device,
    )


def of_corpus(
    fingerprints: Mapping[str, str], image: str, speech: str, decoder: str, device: str
) -> MediaTokenizers:
    """The tokenizers that made a corpus: the demo ones, or those that the options name.

    Args:
        fingerprints: as the corpus's manifest names them.
        image: what the option of pictures says.
        speech: what the option of speech says.
        decoder: what the option of the speech decoder says.
        device: where they run.
    """
    from omni_diffusion.tokenize.media import MediaTokenizers, is_demo

    if is_demo(fingerprints.get("image", "")):
        image = "demo"
    if is_demo(fingerprints.get("speech", "")):
        speech = decoder = "demo"
    return MediaTokenizers(image=image, speech=speech, speech_decoder=decoder, device=device)
