"""``python -m fanfill`` is ``fanfill``."""

from fanfill.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
