"""Benchmarks: each runs the peer in the same call and prints a JSON line for each case. See README.md here."""
