"""Programs that use the gateway: bench, demo, lab, replay, registry, check, init. The gateway never imports them."""
