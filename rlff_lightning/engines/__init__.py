"""Who generates tokens, and how new weights reach them."""
