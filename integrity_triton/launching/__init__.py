"""Kernel launches: what a launch is, its configuration, and how its data get to the device."""
