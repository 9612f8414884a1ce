"""Screens against evasion: inputs made, or fit, to be answered wrongly (ATLAS AML.T0015, AML.T0043)."""
