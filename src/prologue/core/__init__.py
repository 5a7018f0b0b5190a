"""What every other room builds on: params, files, errors, seeds, processes, unfinished work."""
