"""The attack lab's service under test: real gateways with many accounts, and models as an attacker holds them."""
