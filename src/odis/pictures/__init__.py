"""Pictures of objects, views and neighbours."""
