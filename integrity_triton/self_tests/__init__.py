"""Known answers that kernels have to give on a device before their first result there."""
