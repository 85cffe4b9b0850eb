"""Ray programs: one per command."""
