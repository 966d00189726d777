"""What is removed from a corpus, and why: languages, lengths, overlap with probes, duplicates."""
