"""Every model that was evaluated, side by side: a page to look at, and files to hand in elsewhere."""
