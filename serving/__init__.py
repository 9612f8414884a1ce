"""Runs models: signed bundles, catalog, batching, engines and the recipes that train them."""
