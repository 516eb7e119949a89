"""Settings: the schema, the defaults, the documentation and the error messages."""
