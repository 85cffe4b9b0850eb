"""Names of what ``grepr score``, ``grepr pretrain`` and ``grepr filter`` leave in their outputs. Imports nothing."""

#: The record of a run, written last: its presence means done.
RUN_FILE = "run.json"
#: Likewise of a selection.
FILTER_FILE = "filter.json"
#: What a selection was made by, written first.
CRITERIA_FILE = "criteria.json"
#: Weights of the pretrained encoders, as their classes load them.
LOW_WEIGHTS_FILE, HIGH_WEIGHTS_FILE = "low_level.safetensors", "high_level.safetensors"
#: The configuration of the high-level encoder.
HIGH_CONFIG_FILE = "high_level.json"
#: The note of the command that is writing.
LOCK_FILE = "run.lock"
