"""PTX run on the CPU, to see without a GPU what NVRTC made of the kernels. Needs gcc."""
