"""`quell report`: a study as one HTML page with its sounds and pictures inside."""
