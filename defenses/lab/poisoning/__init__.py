"""Backdoor attacks, and how the trigger screen and the inspection of bundles stand against them."""
