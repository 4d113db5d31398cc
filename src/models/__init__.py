"""Model families: an architecture, its preprocessing, and what depth means in it."""
