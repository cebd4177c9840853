"""Any kernel's time from a measured table: `fit` makes the predictor, `predict` asks it."""
