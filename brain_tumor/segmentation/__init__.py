"""Networks that say of each pixel whether it is tumour: built flat, with named stages, from one contract."""
