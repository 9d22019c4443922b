"""From an entry to a sample: pictures are read, decoded and brought to size; what is broken is named."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from subjectgen.core import InputError, Reference, Sample, SampleError, check_mask, image_tensor, load_mask
from subjectgen.core.images import resize_antialiased
from subjectgen.datasets.entries import Entry, ReferenceEntry
from subjectgen.datasets.sizing import Framing, SizedConfig, within_area
from subjectgen.datasets.sources import Source


class UnreadableSampleError(SampleError):
    """A sample that cannot be read. ``reason``: the same words for all that fail alike, to count by."""

    reason: str = ""

    @classmethod
    def of(cls, place: str, reason: str, detail: str = "") -> UnreadableSampleError:
        """Name the place, the reason, and what is so in this one."""
        error = cls(f"{place}: {detail or reason}")
        error.reason = reason
        return error


def read_sample(entry: Entry, config: SizedConfig, framing: Framing) -> Sample:
    """Read all pictures of an entry.

    Raises:
        UnreadableSampleError: One is missing, cannot be decoded, or a mask does not fit. Names place, picture
            and reason.
    """
    references = tuple(_reference(entry, one, config) for one in entry.references)
    target = None
    if entry.target is not None:
        picture = _picture(entry.place, "target", entry.target)
        before = (picture.shape[1], picture.shape[2])
        size = config.target_size(before)
        target = framing.apply(picture, size)
        if size != before or framing.mirror:  # regions follow the target; where it stays, so do their pixels
            references = tuple(_moved(one, framing, size, before) for one in references)
    return Sample(key=entry.key, prompt=entry.prompt, references=references, target=target, facts=dict(entry.facts))


def _reference(entry: Entry, one: ReferenceEntry, config: SizedConfig) -> Reference:
    picture = _picture(entry.place, "reference", one.picture)
    mask = None if one.subject_mask is None else _mask(entry.place, "mask", one.subject_mask)
    if mask is not None and mask.shape[1:] != picture.shape[1:]:
        sizes = "{}x{}; expected the size of its reference, {}x{}".format(*mask.shape[1:], *picture.shape[1:])
        assert one.subject_mask is not None
        detail = f"mask {one.subject_mask.name!r} is {sizes} (height x width)"
        raise UnreadableSampleError.of(entry.place, "mask: another size than its reference", detail)
    size = within_area((picture.shape[1], picture.shape[2]), config.reference_area)
    return Reference(
        image=resize_antialiased(picture, *size),
        subject_mask=None if mask is None else _resized_mask(entry.place, mask, size),
        region_mask=None if one.region_mask is None else _mask(entry.place, "region", one.region_mask),
        weight=one.weight,
        name=one.name,
    )


def _resized_mask(place: str, mask: Float[Tensor, "1 h w"], size: tuple[int, int]) -> Float[Tensor, "1 h2 w2"]:
    try:
        return check_mask(resize_antialiased(mask, *size), "mask, made smaller with its reference,")
    except InputError as error:
        raise UnreadableSampleError.of(place, "mask: empty once it is made smaller", str(error)) from error


def _moved(one: Reference, framing: Framing, size: tuple[int, int], before: tuple[int, int]) -> Reference:
    """The same reference with its region where the target's frame has it."""
    if one.region_mask is None:
        return one
    region = framing.apply(one.region_mask, size, before)
    return Reference(
        image=one.image, subject_mask=one.subject_mask, region_mask=region, weight=one.weight, name=one.name
    )


def _picture(place: str, role: str, source: Source) -> Float[Tensor, "3 h w"]:
    content = _content(place, role, source)
    label = f"{role} {source.name!r}"
    try:
        return image_tensor(content, what=label)
    except InputError as error:
        raise _broken(place, role, label, error) from error


def _mask(place: str, role: str, source: Source) -> Float[Tensor, "1 h w"]:
    content = _content(place, role, source)
    label = f"{role} {source.name!r}"
    try:
        return load_mask(content, label=label)
    except InputError as error:
        raise _broken(place, role, label, error) from error


def _content(place: str, role: str, source: Source) -> bytes:
    try:
        return source.read()
    except FileNotFoundError as error:
        reason = f"{role}: no such file"
        raise UnreadableSampleError.of(place, reason, f"{role} {source.name!r}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        why = getattr(error, "strerror", None) or str(error)
        raise UnreadableSampleError.of(place, f"{role}: cannot be read", f"{role} {source.name!r}: {why}") from error


def _broken(place: str, role: str, label: str, error: InputError) -> UnreadableSampleError:
    """Words before the first ``:`` or ``;`` say the kind: ``not an image``, ``cannot be decoded``."""
    kind = str(error).removeprefix(label).lstrip(": ").partition(";")[0].partition(":")[0]
    return UnreadableSampleError.of(place, f"{role}: {kind.strip()[:60]}", str(error))
