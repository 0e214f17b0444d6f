"""A study's recordings before the search: audit report, exclusions, previews."""
