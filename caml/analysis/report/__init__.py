"""The report page, its tables and its sentences, and the result in short."""
