"""Results of a study as numbers: a snapshot, costs, points of plots, workers, `quell status`."""
