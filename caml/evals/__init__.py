"""Scoring of probes."""
