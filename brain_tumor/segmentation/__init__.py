"""The outline of a tumour: networks that draw it, how they are trained, and how well they draw."""
