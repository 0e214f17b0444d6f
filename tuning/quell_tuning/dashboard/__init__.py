"""optuna-dashboard with access control, notes, plots and an artifact route."""
