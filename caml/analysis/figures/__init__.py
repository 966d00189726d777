"""Figures: what they look at, how they are drawn, and their captions."""
