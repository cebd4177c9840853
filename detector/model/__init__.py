"""The detector as a torch module, built from a `DetectorSpec`: training form, deployed form, weights."""
