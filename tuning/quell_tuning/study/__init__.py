"""A study: its file, what it searches, what the database holds of it."""
