"""A trained model at hand: a tokenizer with the AR model of its ids, and what people ask of both."""
