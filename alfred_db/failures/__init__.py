"""What SQLAlchemy and the driver raise, read for `errors`: causes by text, messages without values, marks."""
