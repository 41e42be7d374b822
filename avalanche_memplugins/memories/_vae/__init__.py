"""Parts of the memory that generates by a variational auto-encoder."""
