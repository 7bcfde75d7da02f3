"""Speech to codes and back: GLM-4-Voice's tokenizer and its decoders."""
