"""The language model that training and generation share: Dream, its attention, its checkpoints."""
