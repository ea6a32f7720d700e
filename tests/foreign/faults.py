"""What is known to go wrong still: (case, verb) → why. A case that is mended is taken out."""

ROUTED = "the output of an expert has a row for each token that reached it, not for each item"
RAW = "ends in an error of PyTorch's"
KINDS = {
    ROUTED: {"Mixture": ("depth",), "Mixture-of-tokens": ("depth",)},
    RAW: {"scripted": ("analyze",), "scripted_inside": ("certificate",)},
}
FAULTS = {(name, verb): why for why, cases in KINDS.items() for name, verbs in cases.items() for verb in verbs}
