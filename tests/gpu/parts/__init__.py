"""The parts of the GPU session, one module each; ``run.py`` runs them."""
