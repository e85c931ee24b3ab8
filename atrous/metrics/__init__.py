"""Metrics: a `statistic` that is added over images and processes, and a `report` that turns the total into scores."""
