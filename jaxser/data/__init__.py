"""From the feature store to batches."""
