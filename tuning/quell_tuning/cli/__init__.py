"""The program `quell`, a module for each family of commands."""
