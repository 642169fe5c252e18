"""Files: weights, atomic writes, downloads, and what made a result."""
