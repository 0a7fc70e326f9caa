"""Brain tumours in MRI slices: class, segmentation and measurements.

`from brain_tumor import analyze` is all most people need. Each folder of chapters is a package
(`brain_tumor.io`, `brain_tumor.imaging`, ...), and each chapter a module in it. Public names are
imported when they are first used, so `import brain_tumor` itself is fast.

For research and teaching only; not a medical device.
"""

__version__ = "0.1.0"

from importlib import import_module as _import_module

# Public name -> the module that defines it.
_HOMES = {
    "analyze": "inference.analyze",
    "Analysis": "inference.result",
    "audit": "data.audit",
    "BrainTumorError": "io.errors",
    "CLASSES": "io.scan",
    "ErrorCode": "io.errors",
    "evaluate": "evaluation.evaluate",
    "measure": "imaging.morphology",
    "phantom": "imaging.phantoms",
    "samples": "imaging.samples",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_HOMES})
