"""The networks: transformer, quantizers, tokenizer, AR model, discriminator."""
