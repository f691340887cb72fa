"""params.yaml, presets and paths: checked before any work, without torch."""
