"""What operators do over the admin port: tenants, custody, quarantine, releases, labels, incidents."""
