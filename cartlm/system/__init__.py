"""The machine: its limits and identity, other processes, the build of llama.cpp."""
