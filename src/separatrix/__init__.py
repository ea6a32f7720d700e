"""Any neural network is a dynamical system: measure it, build it, train it and see it as one.

Three nouns: a `System` is a state and one pure step; an analysis is a function from any System to a `Result`; a Result carries
values, units, error bars and a status, and saves and plots itself.

    import separatrix as sx

    portrait = sx.analyze(model, inputs)                     # the main job: on which side of the border is this network?
    spectrum = sx.lyapunov_spectrum(sx.classic.lorenz63())   # any analysis of any system
"""

__version__ = "0.1.0"

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)  # the names are in __init__.pyi; each is imported on first use
