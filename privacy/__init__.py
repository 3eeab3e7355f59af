"""What may leave a site, and in what form: messages, identities, secure aggregation and privacy budgets."""
