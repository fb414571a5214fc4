"""What PyInstaller cannot see of the kernels: the CUDA sources, which are compiled where the program runs."""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("fanfill_kernels")
