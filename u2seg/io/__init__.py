"""Files: atomic writes, safe reads of untrusted images, JSON, YAML, PNG, checkpoints."""
