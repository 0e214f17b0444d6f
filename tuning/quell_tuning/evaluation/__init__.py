"""`quell evaluate`: systems, test sets, tables."""
