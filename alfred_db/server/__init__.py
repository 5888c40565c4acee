"""What the server is: its facts, its platform, and what this library requires of it."""
