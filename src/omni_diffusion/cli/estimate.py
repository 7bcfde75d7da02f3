"""`omni-diffusion estimate`: memory and time of a training recipe, from shapes alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer

from omni_diffusion.cli import recipe_options


def command(
    recipe: Path = typer.Argument(help="A training recipe."),
    overrides: list[str] = recipe_options.overrides("model.lora.rank=32"),
    gpus: int = typer.Option(1, min=1, help="GPUs that share the model."),
    peak_tflops: float = typer.Option(989.0, min=0.001, help="Dense peak of one GPU, bf16."),
    efficiency: float = typer.Option(0.35, min=0.001, max=1.0, help="Part of the peak reached."),
    rows_per_pass: int = typer.Option(1, min=1, help="Rows that one GPU computes at once."),
    sample_tokens: int = typer.Option(1024, min=1, help="Average length of a sample."),
    masked_share: float = typer.Option(0.3, min=0.0, max=1.0, help="Part of positions predicted."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Estimate memory of one GPU and time of training. Nothing is loaded or run.

    Peak and efficiency are assumptions, by default those of an H100 and of good dense trainers.
    """
    from omni_diffusion.recipe import load_recipe
    from omni_diffusion.tokenize.vocabulary import PUBLISHED_TEXT_SIZE, Vocabulary
    from omni_diffusion.tokenize.weights import DEMO
    from omni_diffusion.training.estimate import Assumptions, EstimateRecipe, estimate

    loaded = load_recipe(recipe, EstimateRecipe, overrides or ())
    vocabulary = Vocabulary(PUBLISHED_TEXT_SIZE)
    name = loaded.data.tokenizer
    if name == DEMO or Path(name).exists():
        from omni_diffusion.tokenize.text import TextTokenizer

        vocabulary = TextTokenizer.from_pretrained(name).vocabulary
    given = Assumptions(
        gpus=gpus,
        peak_flops=peak_tflops * 1e12,
        efficiency=efficiency,
        rows_per_pass=rows_per_pass,
        sample_tokens=sample_tokens,
        masked_share=masked_share,
    )
    found = estimate(loaded, vocabulary, given)
    if as_json:
        typer.echo(json.dumps({"assumptions": asdict(given), **asdict(found)}, indent=2))
        return
    trained = f"{found.trained:,} of them trained"
    typer.echo(f"parameters      {found.parameters:,}, {trained}")
    typer.echo(f"memory of each of {gpus} GPUs")
    for purpose, size in found.memory.items():
        typer.echo(f"  {purpose:<14}{size / 1e9:8.2f} GB")
    typer.echo(f"  {'sum':<14}{sum(found.memory.values()) / 1e9:8.2f} GB")
    flops, seconds = _short(found.step_flops / 1e12), _short(found.step_seconds)
    typer.echo(f"a step          {flops} TFLOP, {seconds} s")
    typer.echo(f"throughput      {found.tokens_per_second:,.0f} positions/s")
    typer.echo(f"all steps       {_short(found.total_hours)} h")
    typer.echo(f"assuming {efficiency:.0%} of {peak_tflops:g} TFLOP/s; estimated, not measured")


def _short(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
