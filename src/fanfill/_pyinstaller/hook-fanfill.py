"""What PyInstaller cannot see of fanfill: backends are imported by name, and the golden hashes are data."""

from PyInstaller.utils.hooks import collect_data_files

from fanfill.backends import MODULES

hiddenimports = list(MODULES.values())
datas = collect_data_files("fanfill")
