"""What PyInstaller cannot see of fanfill: modules that are imported by name, and the golden hashes."""

from PyInstaller.utils.hooks import collect_data_files

from fanfill import _LATER
from fanfill.backends import MODULES

hiddenimports = [*MODULES.values(), *_LATER.values()]
datas = collect_data_files("fanfill")
