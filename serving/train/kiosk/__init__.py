"""The kiosk case: classify product images."""
