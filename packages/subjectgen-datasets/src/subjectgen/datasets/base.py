"""What all of these data sets are: an index of entries, and one way to read them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from subjectgen.core import Sample
from subjectgen.datasets.entries import Entry
from subjectgen.datasets.headers import picture_size
from subjectgen.datasets.left_out import LeftOut
from subjectgen.datasets.reading import read_sample
from subjectgen.datasets.sizing import Framing, Size, SizedConfig
from subjectgen.datasets.target_sizes import TargetSizes


class EntryDataset(ABC):
    """Base of data sets whose pictures lie in files.

    A data set of your own says how many samples there are, their keys and the entry of each; then calls
    ``super().__init__(config, count)``. It gets sizes, buckets, crops and messages that name what is broken.
    """

    def __init__(self, config: SizedConfig, count: int) -> None:
        """``count``: how many samples there are."""
        self.config, self._count = config, count
        self._sizes = TargetSizes(count, self._size, config.fixed)
        self.left_out = LeftOut()
        """What of the index cannot be used."""

    @abstractmethod
    def entry(self, index: int) -> Entry:
        """What a sample is made of; its pictures are not read.

        Raises:
            IndexError: Past the end.
            SampleError: The index cannot be read there.
        """

    @abstractmethod
    def keys(self) -> Sequence[str]:
        """Keys of all samples, in their order; no picture is read."""

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        """One sample; the same index gives the same.

        Raises:
            IndexError: Past the end.
            SampleError: A picture is missing or broken; names place, picture and reason.
        """
        self.check_index(index)
        return read_sample(self.entry(index), self.config, Framing())

    def augmented(self, index: int, seed: int) -> Sample:
        """The sample as this seed crops and mirrors its target, as far as the options say so.

        Raises:
            IndexError: Past the end.
            SampleError: A picture is missing or broken; names place, picture and reason.
        """
        self.check_index(index)
        return read_sample(self.entry(index), self.config, Framing.drawn(seed, self.config))

    @property
    def sizes(self) -> Sequence[Size]:
        """Height and width of each target. The first look reads the headers of all pictures, unless ``size`` is set."""
        return self._sizes

    def check_index(self, index: int) -> None:
        """Raises:
        IndexError: Past the end, or before the beginning.
        """
        if not 0 <= index < self._count:
            raise IndexError(index)

    def _size(self, index: int) -> Size | None:
        try:
            target = self.entry(index).target
        except Exception:  # reading the sample says what is wrong with it
            return None
        found = None if target is None else picture_size(target)
        return None if found is None else self.config.target_size(found)
