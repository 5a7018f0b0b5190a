"""Other projects' files: the authors' published checkpoints."""
