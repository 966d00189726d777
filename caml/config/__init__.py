"""Gin files into frozen dataclasses: strict checks, fingerprint, explain."""
