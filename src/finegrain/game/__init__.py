"""Several networks that learn from several losses."""
