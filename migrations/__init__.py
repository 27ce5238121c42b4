"""The schema's history: the only way the schema is made, in tests too."""
