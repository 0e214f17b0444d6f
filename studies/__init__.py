"""Study files that come with Quell."""
