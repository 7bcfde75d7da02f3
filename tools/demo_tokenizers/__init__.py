"""Train the small tokenizers that ship in the package under the name `demo`."""
