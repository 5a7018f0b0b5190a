"""Other projects' files: the authors' published checkpoints, and tokenizers that people have already."""

from prologue.interop.imported import load_tokenizer

__all__ = ["load_tokenizer"]
