"""Measure vlmchat beside transformers: `python -m examples.benchmarks --help`."""
