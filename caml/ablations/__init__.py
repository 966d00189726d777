"""Grid to cells to StageRuns, and the runner that trains what is missing."""
