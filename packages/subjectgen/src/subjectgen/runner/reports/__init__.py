"""Pages and sheets from files alone; no model is imported."""
