"""What a result is worth: a metric is a sum, its `statistic`, added over images and processes, and a `report` of it."""
