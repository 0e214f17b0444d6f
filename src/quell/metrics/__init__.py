"""How good an estimate is, without torch."""
