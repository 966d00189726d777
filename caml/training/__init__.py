"""Train step, optimizer, population, loop, checkpoints, mesh."""
