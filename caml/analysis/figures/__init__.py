"""Figures: what they look at, how they are drawn, and their captions."""

import logging

# Where matplotlib may keep its cache is nobody's concern here: it finds a place by itself.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
