"""How a statement is sent: driver path, COPY, bulk, vector search, paging."""
