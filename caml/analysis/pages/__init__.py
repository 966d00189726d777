"""What the pages have in common: one file each, that opens without a network."""
