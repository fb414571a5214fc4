"""What PyInstaller cannot see of fanfill: backends are imported by name, and the golden hashes are data."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

hiddenimports = collect_submodules("fanfill.backends")
datas = collect_data_files("fanfill")
