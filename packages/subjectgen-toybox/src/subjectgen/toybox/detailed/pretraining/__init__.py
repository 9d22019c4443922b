"""How the detailed world's models are made: one resumable command for each.

All are run by ``python -m subjectgen.toybox.detailed.pretraining``.
"""
