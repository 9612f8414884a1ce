"""The attack lab: attacks, what they run against, and how results are counted. No part of a served request."""
