"""Timestep grids, stage masks, guidance and branch dropout as one object."""
