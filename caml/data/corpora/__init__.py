"""Text that caml did not write: where it is read from, and how a row of it becomes a document."""
