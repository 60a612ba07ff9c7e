"""Speed and memory beside peers, measured in one run; ``tools/benchmark.py`` is its command."""
