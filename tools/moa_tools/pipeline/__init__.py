"""From a model to plans with measured quality: calibrate, curves, search, validate, report."""
