"""The embedded procedural corpus and its probes."""
