"""From rows of the object index to batches: crops, masks, views, loading."""
