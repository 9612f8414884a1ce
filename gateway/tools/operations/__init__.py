"""Commands that call a running gateway over the admin port."""
