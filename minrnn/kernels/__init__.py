"""Fused gates and recurrence, one file a device. Import through `minrnn.scan`, which chooses."""
