"""The runs behind the analyses: their lengths, tangent frames, units, and error bars."""
