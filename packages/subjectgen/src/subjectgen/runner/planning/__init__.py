"""``subjectgen plan``: parameters, tokens, operations, memory and time of an experiment, before anything is loaded."""
