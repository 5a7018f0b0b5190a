"""Measuring reconstructions, samples, tokens and likelihoods."""
