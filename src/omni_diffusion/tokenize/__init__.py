"""Text, pictures and speech to codes and back, equal to the published tokenizers."""
