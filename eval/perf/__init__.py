"""Side-by-side performance: `python -m eval.perf --help`."""
