"""Winograd convolutions on the CPU: engine.py runs networks, layers.py their layers, library.py compiles what stands in kernels/."""
