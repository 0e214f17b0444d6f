"""optuna-dashboard, guarded, with our notes, plots and sounds."""
