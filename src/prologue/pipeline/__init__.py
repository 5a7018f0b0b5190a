"""How stages are put together: what is trained, imported or passed through, and which pictures go with it."""
