"""The Python API, which ``import vlmcomp`` offers: models, and benchmarks of recipes."""
