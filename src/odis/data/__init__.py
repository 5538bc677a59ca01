"""From the object index to batches: crops, object masks, views, loading."""
