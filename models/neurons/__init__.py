"""Neuron kinds, one file each. `snnbench.models.neuron` tells what such a file says."""
