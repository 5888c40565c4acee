"""How statements run, as they are written."""
