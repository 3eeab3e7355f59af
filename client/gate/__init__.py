"""Nothing runs or leaves before limits are checked, the ledger is charged and masks are on."""
