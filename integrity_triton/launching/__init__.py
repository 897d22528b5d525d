"""Kernel launches: what a launch is, its configuration, and how data get to the device for it."""
