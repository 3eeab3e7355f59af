"""What may leave a site and in what form: messages, identities, and (later) secure aggregation and budgets."""
