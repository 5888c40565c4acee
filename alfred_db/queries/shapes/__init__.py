"""Parts of statements that the queries of several nouns share."""
