"""Settings: one frozen dataclass per stage, YAML in, yacs node out. Knows no Detectron2."""
