"""A study's recordings before the search."""
