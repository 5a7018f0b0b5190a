"""The `prologue` command, a file for each of its own commands."""
