"""How the shipped weights were made: one module per model, all run by ``python -m subjectgen.toybox.pretraining``."""
