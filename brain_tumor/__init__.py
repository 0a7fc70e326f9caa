"""Brain tumours in MRI slices: class, outline and sizes. Research and teaching only, no medical device.

`from brain_tumor import analyze` is all most people need; every room is a module of its own
(`brain_tumor.scan`, `brain_tumor.morphology`, ...). Names are fetched when first asked for, so that
`import brain_tumor` itself costs next to nothing.
"""
__version__ = "0.1.0"

import sys as _sys
from importlib import import_module as _import_module
from types import ModuleType as _ModuleType

# Public name -> the room that defines it.
_HOMES = {
    "analyze": "analysis",
    "Analysis": "result",
    "audit": "audit",
    "BrainTumorError": "scan",
    "CLASSES": "scan",
    "measure": "morphology",
    "phantom": "phantom",
    "samples": "phantom",
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


class _Package(_ModuleType):
    """Keeps a function that shares its room's name (`phantom`, `audit`) from being hidden by the room's module.

    Importing `brain_tumor.phantom` binds the module to the package's attribute `phantom`; here the public
    function is bound instead, whichever is imported first. `from brain_tumor.phantom import ...` is untouched.
    """

    def __setattr__(self, name, value):
        if isinstance(value, _ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Package
