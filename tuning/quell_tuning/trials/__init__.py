"""The life of a trial, from slot to score."""
