"""Online three-factor learning in networks of LIF neurons: the parts of `snnbench.models.superspike`."""
