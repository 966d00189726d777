"""Effects, intervals, persistence, figures and the report page; imports no jax."""
