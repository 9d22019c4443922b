"""A procedural world of 3-D toys and tiny real models that know it."""
