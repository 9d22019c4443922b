"""For all tests. Imports nothing of ours: jaxtyping's import hook must come first."""

from hypothesis import settings

settings.register_profile("subjectgen", deadline=None)  # a busy machine is not a failure
settings.load_profile("subjectgen")
