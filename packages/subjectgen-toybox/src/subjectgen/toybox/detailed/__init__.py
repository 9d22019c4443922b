"""The second toy world: 96-pixel toys with details that no word names, so that words alone never settle an identity.

It stands beside the first world until its own models are complete, and takes its place then.
"""
