"""What images cost that are drawn for money: prices, the ledger of every request, and what is due before a run."""
