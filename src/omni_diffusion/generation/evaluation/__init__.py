"""Evaluation: benchmark layouts in, answers of a model, the field's own scores out."""
