"""What is known to go wrong still: (case, verb) → why. A case that is mended is taken out."""

DRAWN = "the global generator is moved by a trial of a network that draws"
WRITTEN = "a trial writes to the user's buffers or inputs"
ROUTED = "the output of an expert has a row for each token that reached it, not for each item"
SLOPE = "autograd's derivative, which the network's author changed, stands for the map's own, and nothing says so"
COUPLED = "items of a batch depend on each other; one alone gives another orbit"
RAW = "ends in an error of PyTorch's"
KINDS = {
    DRAWN: {
        "FunctionalDropout": ("depth", "analyze", "certificate"),
        "GaussianNoiseLayer": ("depth", "analyze", "certificate"),
        "LatentRNN": ("analyze",),
    },
    WRITTEN: {"CallCounter": ("depth", "analyze"), "WarmUp": ("analyze",), "WritesItsInput": ("analyze",)},
    ROUTED: {"Mixture": ("depth",), "Mixture-of-tokens": ("depth",)},
    SLOPE: {name: ("map", "ode") for name in ("Detached", "StraightThrough", "GradientReversal", "Quantised")},
    COUPLED: {"CentredBatch": ("map", "ode")},
    RAW: {
        "scripted": ("analyze",),
        "scripted_inside": ("certificate",),
        "FunctionalHamiltonian": ("analyze",),
        "Coupling": ("ode",),
        "Seq2Seq": ("analyze",),
    },
    "a loop that is driven first and then fed its own output is measured under the whole recording": {"WarmedUp": ("analyze",)},
    "a complex state is read as real numbers": {"Unitary": ("recurrent",)},
    "of (state, readout) of one width, the readout is taken for the state": {"ReadoutLast": ("recurrent",)},
}
FAULTS = {(name, verb): why for why, cases in KINDS.items() for name, verbs in cases.items() for verb in verbs}
