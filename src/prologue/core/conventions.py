"""Constants that params and code agree on."""

import re

HEAD_DIM = 64  # channels of an attention head
EPOCHS = re.compile(r"(\d+(?:\.\d+)?)epochs")  # a duration in epochs
# Params that change no result.
WITHOUT_EFFECT = {"checkpoint_every", "keep_checkpoints", "validation_grid", "min_usage"}
SAMPLING_RUNS = ("cfg", "no_cfg")  # with guidance and without
