"""The former name of `prologue.models.saved`, which programs of others may still import."""

from prologue.models.saved import load_ar, load_tokenizer, parameter_count, save_model

__all__ = ["load_ar", "load_tokenizer", "parameter_count", "save_model"]
