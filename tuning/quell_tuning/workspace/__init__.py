"""The folder of runs, and its copy in a bucket."""
