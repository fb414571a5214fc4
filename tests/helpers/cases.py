"""The initializers that tests draw: one table, made of fanfill's own records.

`fanfill.distributions.DISTRIBUTIONS` has the parameters of each distribution's golden fills; everything here
follows from them. What cannot follow, such as exact formulas, is a table in the test that needs it, and
`assert_covers` says whether that has a case for each distribution.
"""

from __future__ import annotations

from collections.abc import Iterable

from fanfill.distributions import DISTRIBUTIONS, recipe
from fanfill.dtypes import STORAGES
from fanfill.initializers import Initializer
from fanfill.selftest import golden
from fanfill_kernels.forms import forms_of

KEY = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
INITIALIZERS = golden.INITIALIZERS
FIXED = {name: made for name, made in INITIALIZERS.items() if made.scaling is None}
"""Those of parameters alone; fans have no part in them."""
FORMS = sorted({form for dtype in STORAGES for form in forms_of(dtype)})


def _leads_to(form: str, made: Initializer) -> bool:
    """In every dtype that has the form."""
    dtypes = [dtype for dtype in STORAGES if form in forms_of(dtype)]
    return all(recipe(made, (1,), dtype).form == form for dtype in dtypes)


OF_FORM = {
    form: found[0] for form in FORMS if (found := [made for made in FIXED.values() if _leads_to(form, made)])
}
"""The first initializer that leads to each form of kernel; test_golden.py sees that each form has one."""


def assert_covers(found: Iterable[Initializer], *exempt: str) -> None:
    """There is a case for every distribution but those named."""
    missing = DISTRIBUTIONS.keys() - {made.distribution for made in found} - set(exempt)
    assert not missing, f"expected cases for {', '.join(sorted(missing))} in this test's table; add some"
