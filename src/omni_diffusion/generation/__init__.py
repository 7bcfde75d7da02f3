"""Generation: from a prompt and hidden tokens to an answer, step by step."""
