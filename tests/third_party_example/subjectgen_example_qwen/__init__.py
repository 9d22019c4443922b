"""A backbone written outside of subjectgen, of another family than FLUX."""
