"""Published experiments, done again: `snnbench reproduce run NAME`. One module each."""
