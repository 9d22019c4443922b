"""An aggregator written outside of subjectgen, as small as it can be."""
