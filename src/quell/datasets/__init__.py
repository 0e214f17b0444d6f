"""Downloads public corpora and generates synthetic speech, noise and rooms."""
