"""What a study has found, as numbers."""
