"""The half of durable functions that waits for the database; the sync half is generated from here."""
