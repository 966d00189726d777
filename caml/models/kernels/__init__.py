"""Kernels of attention, one a module, each a function `attend`: see caml/models/attention.py."""
