"""Optuna's database: opened, retried, served."""
