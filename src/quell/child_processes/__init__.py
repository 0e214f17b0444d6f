"""Functions that run in child processes, watched so that the death of one stops nothing else."""
