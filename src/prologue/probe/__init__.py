"""Linear probes of a frozen tokenizer."""
