"""Metrics: a `statistic` that is summed over images and processes, and a `report` that turns the total into scores."""
