"""Any-to-any masked discrete diffusion: token shards, tokenizers, pipelines, trainer, sampler."""

__version__ = "0.1.0"
