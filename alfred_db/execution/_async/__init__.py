"""How statements run; the sync half is generated from here."""
