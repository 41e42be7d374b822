"""Parts of the memory of stream rows."""
