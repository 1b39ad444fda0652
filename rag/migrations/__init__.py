"""The catalog's schema, one file per change; applied when the catalog is opened."""
