"""What goes out to other tools and comes back from them: models, corpora, scores."""
