"""Benchmarks of the field, unchanged, on a model of ours."""
