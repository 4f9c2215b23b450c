"""What a label can be guessed from: targets, probes, cross-fitting, markers, the gate."""
