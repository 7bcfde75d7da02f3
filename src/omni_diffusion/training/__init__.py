"""The masked-diffusion trainer: plan, loader, masking, loss, model, checkpoints, metrics."""
