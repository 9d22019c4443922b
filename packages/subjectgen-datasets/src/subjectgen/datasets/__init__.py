"""Data sets that come with subjectgen: labels of UNO-1M, UNO's JSON, MUSAR-Gen, pairs in a folder, tar shards.

Each is an :class:`~subjectgen.datasets.base.EntryDataset`: it says of every index where the pictures lie
(:class:`~subjectgen.datasets.entries.Entry`), and one place reads them, brings them to size and names what is broken.
"""
