"""What all contracts share: a contract's tests are inherited, never quietly replaced."""

from __future__ import annotations

from typing import Any


class Contract:
    """Base of every contract class.

    Inherit a contract in a class named ``Test...`` and give the fixtures it asks for. A test that your component
    cannot pass is overridden with ``@pytest.mark.xfail(reason="...")``, so that the exception is visible in the
    report; any other override is refused when the class is created.
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name in vars(cls):
            owner = _owner(cls, name)
            if owner is not None and not _expected_to_fail(vars(cls)[name]):
                raise TypeError(
                    f"{cls.__name__}.{name} overrides a test of {owner.__name__}; "
                    "keep the contract's test, or mark the override with @pytest.mark.xfail(reason='...')"
                )


def _owner(cls: type, name: str) -> type | None:
    """The contract among the parents of ``cls`` that defines this test, if any."""
    if not name.startswith("test_"):
        return None
    return next((parent for parent in cls.__mro__[1:] if issubclass(parent, Contract) and name in vars(parent)), None)


def _expected_to_fail(override: object) -> bool:
    marks = getattr(override, "pytestmark", [])
    return any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks)
