"""The commands of `quell`, by what they are about. Heavy imports happen inside the command that needs them."""
