"""Training in phases."""
