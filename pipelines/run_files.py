"""Names of what ``grepr score`` and ``grepr pretrain`` leave in the folder of a run. Imports nothing."""

#: The record of a run, written last: its presence means done.
RUN_FILE = "run.json"
#: Weights of the pretrained encoders, as their classes load them.
LOW_WEIGHTS_FILE, HIGH_WEIGHTS_FILE = "low_level.safetensors", "high_level.safetensors"
#: The configuration of the high-level encoder.
HIGH_CONFIG_FILE = "high_level.json"
