"""The ledger and its MLflow mirror."""
